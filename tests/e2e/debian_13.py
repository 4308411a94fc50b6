#!/usr/bin/python3
"""A node image of Debian 13: its own systemd, stub and kernel, built and predicted by the same builder.

    debian_13.py [--build DIR] [--work DIR] [--results FILE]

One boot from setup mode. Fetches Debian 13's packages through this machine's own apt configuration. Exit code 0 only
if every check passed.
"""
import json
import os
import pathlib
import shutil
import sys
import tempfile

import booted_tree
from checks import equal, main

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/lab"))
import controller as controller_lab  # noqa: E402
import disk  # noqa: E402
import story as main_story  # noqa: E402
import vm  # noqa: E402
from processes import run  # noqa: E402


class Debian13:
    def __init__(self, story, checks):
        self.story, self.check = story, checks.check

    def run(self):
        story = self.story
        shutil.rmtree(story.work, ignore_errors=True)
        story.work.mkdir(parents=True)
        story.make_tokens()
        story.make_keys()
        config = story.work / "node.toml"
        config.write_text(controller_lab.node_config(story.keys), encoding="utf-8")
        package, = sorted((story.build / "packages").glob("sealift-agent_*.deb"))
        # A cache of its own: the lab's keeps one base tree.
        os.environ.update(SEALIFT_GUEST_SUITE="trixie", SEALIFT_LAB_CACHE=str(ROOT / "build/lab/cache-debian-13"))
        tree = story.work / "rootfs"
        story.build_rootfs(tree, "--version", "13.1", "--agent-deb", package)
        release = story.build_uki(tree, story.work / "release", "--node-config", config)
        self.check("the stub is of Debian 13", lambda: equal(release.manifest["stub_version"].split(".")[0], "257"))
        node = vm.Node.new(story.work / "node", vm.TpmVendor(story.work / "tpm-vendor"))
        with tempfile.TemporaryDirectory() as files:
            disk.installed_tree(release, files)
            disk.make_disk(node.disk, files)
        expected = json.loads(run(story.programs / "e2e_predict", release.tree, story.keys))
        with vm.Machine(node) as machine:
            machine.wait_for_boot(0, 90)
            for index in ("4", "7", "11", "12", "13"):
                self.check(f"Debian 13: real PCR {index} equals the prediction", lambda index=index: equal(
                    machine.run(f"cat /sys/class/tpm/tpm0/pcr-sha256/{index}").strip().lower(), expected[index]))
            self.check("Debian 13: the tree in memory is the one the image was built from, file by file",
                       lambda: booted_tree.compare(machine, tree, 120))
            self.check("Debian 13: no unit failed", lambda: equal(machine.run("systemctl --failed --no-legend --plain"), ""))


if __name__ == "__main__":
    sys.exit(main("A Debian 13 node image, built and booted.", "build/e2e-debian-13", main_story.Story,
                  lambda story, checks: Debian13(story, checks).run()))
