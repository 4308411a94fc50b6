#!/usr/bin/python3
"""The install ISO boots on a machine fresh from the factory: once as a CD, once as a disk (a stick).

    iso_boot.py [--build DIR] [--work DIR] [--results FILE]

The image is the probe of vm_story.py: it prints what the TPM measured and powers off. That PCR 7 is the predicted one
says that the firmware took the keys from the medium and that Secure Boot was on. Exit code 0 only if every check passed.
"""
import json
import pathlib
import shutil
import sys
import time

from checks import equal, main

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/lab"))
import disk  # noqa: E402
import story as main_story  # noqa: E402
import vm  # noqa: E402
from processes import run, say  # noqa: E402

FORCE = ("--secure-boot-enroll", "force", "--i-verified-these-keys-on-this-hardware", "--menu-timeout", "0")


class IsoBoot:
    """One ISO, and the release that it carries as a tree for the predictions."""

    def __init__(self, story, checks):
        self.story, self.checks = story, checks
        self.iso = self.release = self.expected = None

    def build(self):
        story = self.story
        shutil.rmtree(story.work, ignore_errors=True)
        story.work.mkdir(parents=True)
        story.make_tokens()
        story.make_keys()
        tree = story.work / "rootfs"
        story.build_rootfs(tree, "--version", "1.0", "--probe")
        story.sealift("build-uki", f"dir:{tree}", "-t", "iso", "-d", story.work / "media", "-n", "install", "-k", story.keys,
                      *story.token_arguments("release"), *FORCE)
        self.iso = story.work / "media/install.iso"
        # The release as the medium carries it.
        start = next(part["start"] for part in json.loads(run("sfdisk", "-J", self.iso))["partitiontable"]["partitions"]
                     if part["type"] == disk.ESP_TYPE)
        files = story.work / "release"
        files.mkdir()
        run("mcopy", "-s", "-Q", "-i", f"{self.iso}@@{start * 512}", "::/EFI", "::/loader", "::/release.json", files)
        self.release = disk.Release(files)
        self.expected = json.loads(run(story.programs / "e2e_predict", files, story.keys))

    def boot(self, name, as_cd):
        node = vm.Node.new(self.story.work / f"node-{name}", vm.TpmVendor(self.story.work / "tpm-vendor"))
        if as_cd:
            node.disk.write_bytes(bytes(1 << 20))
        else:
            shutil.copy(self.iso, node.disk)
        began = time.monotonic()
        with vm.Machine(node, memory=512, cpus=1, cd=self.iso if as_cd else None) as machine:
            machine.serial.wait("probe: done", 90 * vm.patience(), unless="No bootable option")
            printed = machine.serial.text()
        say(f"  {name}: {time.monotonic() - began:.0f} s from power-on, keys enrolled on the way")
        registers = dict(line.split()[2:4] for line in printed.splitlines() if line.startswith("probe: PCR"))
        for index in (4, 7, 12):
            equal((index, registers[str(index)]), (index, self.expected[str(index)]))
        equal(registers["11"], self.release.manifest["pcr11"][0]["pcr11"])


def tell(story, checks):
    medium = IsoBoot(story, checks)
    medium.build()
    checks.check("as a CD, from an empty firmware store: PCR 4, 7, 11 and 12 as predicted", lambda: medium.boot("cd", True))
    checks.check("as a disk, from an empty firmware store: PCR 4, 7, 11 and 12 as predicted", lambda: medium.boot("disk", False))


if __name__ == "__main__":
    sys.exit(main("The install ISO boots as CD and as disk.", "build/e2e-iso", main_story.Story, tell))
