#!/usr/bin/python3
"""The main story on real parts, chapter by chapter. `deploy/demo.sh` tells it, `tests/e2e/vm_story.py` checks it.

    story.py [--work DIR] [--build DIR] [--keep]
    story.py --stop [--work DIR]

Everything it makes lies below --work (default build/demo) and is made anew each time; the caches of build-rootfs.sh
are kept. It leaves no process behind, unless --keep: then machine and controller run on until --stop.
"""
import argparse
import json
import pathlib
import shutil
import sys
import tempfile
import time

import controller as controller_lab
import disk
import vm
from processes import LabError, end_on_signals, run, run_with_progress, say, wait_until

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHANNEL = "stable"
NO_DELTAS = ("--delta-against", "0")
PEOPLE = (("olga", "operator"), ("ada", "approver"))
KEY_GROUPS = ("root", "release", "online", "custody")


class Story:
    """One telling. Each chapter is a method; tell() runs them in order. Not thread-safe."""

    def __init__(self, work, build, keep=False):
        self.work, self.build, self.keep = pathlib.Path(work).absolute(), pathlib.Path(build).absolute(), keep
        self.programs = self.build / "bin"
        self.keys = self.work / "keys"
        self.tokens, self.releases, self.facts = {}, {}, []
        self.vendor = self.node = self.machine = self.controller = None

    # What every chapter uses.

    def sealift(self, *arguments, timeout=300):
        """Runs the operator's command and returns what it printed."""
        return run(self.programs / "sealift", *arguments, timeout=timeout)

    def token_arguments(self, *groups):
        return [part for group in groups for part in ("--token", f"{group}={self.tokens[group]}")]

    def note(self, what, value):
        """A line of the closing table."""
        self.facts.append((what, value))

    # The chapters.

    def make_tokens(self):
        """four tokens, one a key group"""
        for group in KEY_GROUPS:
            pin = self.work / "pins" / group
            pin.parent.mkdir(mode=0o700, exist_ok=True)
            # A PIN of its own for each; made by openssl, so that it is in no argument list.
            run("openssl", "rand", "-hex", "-out", pin, "16")
            pin.write_text(pin.read_text(encoding="ascii").strip(), encoding="ascii")
            pin.chmod(0o600)
            # One store for all: SoftHSM opens a single one in a program, and keys init uses all four tokens.
            self.tokens[group] = self.sealift("token", "create", "--store", self.work / "tokens", "--label", f"demo-{group}",
                                              "--pin-file", pin).strip()
        (self.work / "tokens.json").write_text(json.dumps(self.tokens), encoding="utf-8")
        self.note("tokens", ", ".join(KEY_GROUPS))

    def make_keys(self):
        """the keys are born in the tokens; only public material comes out"""
        # Virtual machines have no option ROMs signed by others. The controller is known by the loopback here and by
        # the address that machines reach it under.
        self.sealift("keys", "init", "demo", *self.token_arguments(*KEY_GROUPS), "--skip-microsoft-certs-I-KNOW-WHAT-IM-DOING",
                     "--controller-san", "IP:127.0.0.1", "--controller-san", f"IP:{vm.CONTROLLER_ADDRESS}", "-o", self.keys)

    def build_first_release(self):
        """version 1.0: root file system, UKI, predictions, signatures"""
        self.build_release("1.0")

    def build_release(self, version):
        tree, out = self.work / f"rootfs-{version}", self.work / f"release-{version}"
        packages = sorted((self.build / "packages").glob("sealift-agent_*.deb"))
        if len(packages) != 1:
            raise LabError(f"{self.build}/packages holds {len(packages)} agent packages, not one: build target package-agent")
        config = self.work / "node.toml"
        config.write_text(controller_lab.node_config(self.keys), encoding="utf-8")
        self.build_rootfs(tree, "--version", version, "--agent-deb", packages[0])
        release = self.releases[version] = self.build_uki(tree, out, "--node-config", config, *self.release_options(version))
        self.note(f"release {version}", f"UKI {release.path(release.uki).stat().st_size >> 20} MiB, "
                                        f"PCR 11 will be {release.manifest['pcr11'][-1]['pcr11'][:16]}...")

    def release_options(self, version):  # pylint: disable=unused-argument
        """More options of build-uki for a version; none in the demo."""
        return ()

    def build_rootfs(self, tree, *arguments):
        took = run_with_progress("root file system", HERE / "build-rootfs.sh", *arguments, tree, log=self.work / "rootfs.log")
        say(f"  {tree.name}: {took:.1f} s")

    def build_uki(self, tree, out, *arguments):
        """`sealift build-uki` with the options of the lab: firmware in setup mode takes the keys at the first boot."""
        began = time.monotonic()
        self.sealift("build-uki", f"dir:{tree}", "-t", "uki", "-d", out, "--keys", self.keys, *self.token_arguments("release"),
                     "--secure-boot-enroll", "force", "--i-verified-these-keys-on-this-hardware", "--menu-timeout", "0", *arguments)
        say(f"  {out.name}: {time.monotonic() - began:.1f} s")
        return disk.Release(out)

    def manufacture_node(self):
        """a machine with a TPM that its vendor certified, and a disk laid out as an installer would"""
        self.vendor = vm.TpmVendor(self.work / "tpm-vendor")
        self.node = vm.Node.new(self.work / "node", self.vendor)
        with tempfile.TemporaryDirectory() as tree:
            disk.installed_tree(self.releases["1.0"], tree)
            disk.make_disk(self.node.disk, tree)

    def start_controller(self):
        """the controller starts with the online token; two people get profiles; version 1.0 is published"""
        makers = self.work / "tpm-makers"
        self.vendor.publish_certificates(makers)
        self.controller = controller_lab.Controller(self.programs, self.work / "controller", self.keys,
                                                    [f"online={self.tokens['online']}"], makers)
        self.controller.start(self.keep)
        say(f"  listens on {self.controller.addresses['fleet']}")
        for name, role in PEOPLE:
            self.sealift("operator", "issue", name, "--role", role, "--keys", self.keys, *self.token_arguments("custody"),
                         "--controller", self.controller.addresses["fleet"], "-o", self.work / "people" / name)
        self.publish("1.0")

    def resume(self, *versions):
        """Takes up a story that was told in this folder before: its tokens, these releases, and the controller."""
        self.tokens = json.loads((self.work / "tokens.json").read_text(encoding="utf-8"))
        self.releases = {version: disk.Release(self.work / f"release-{version}") for version in versions}
        self.vendor = vm.TpmVendor(self.work / "tpm-vendor")
        self.controller = controller_lab.Controller(self.programs, self.work / "controller", self.keys,
                                                    [f"online={self.tokens['online']}"], self.work / "tpm-makers")
        self.controller.start()
        for name, _ in PEOPLE:
            profile = self.work / "people" / name / "profile.toml"
            others = [line for line in profile.read_text(encoding="utf-8").splitlines() if not line.startswith("address ")]
            profile.write_text("\n".join([f'address = "{self.controller.addresses["fleet"]}"', *others, ""]), encoding="utf-8")

    def publish(self, version, *options):
        """With deltas from the releases before, unless `options` say otherwise (NO_DELTAS: saves a minute)."""
        self.as_operator("release", "publish", self.releases[version].tree, "--channel", CHANNEL, "--keys", self.keys,
                         *self.token_arguments("release"), *options, timeout=600)

    def admit_node(self):
        """the TPM's endorsement key, from the vendor's delivery note, goes on the list of admitted machines"""
        self.as_approver("node", "admit-ek", self.node.ek_digest(), "--note", "delivered to the lab")

    def first_boot(self):
        """setup mode: the firmware takes our keys, resets, and from then on Secure Boot is on"""
        accelerator = vm.best_accelerator(ROOT / "build/lab/cache")
        self.machine = vm.Machine(self.node, accelerator=accelerator, keep=self.keep, forwards=self.controller.forwards())
        began = time.monotonic()
        self.machine.start()
        self.machine.serial.wait("BdsDxe: starting", 20 * vm.patience())
        say(f"  firmware is up ({accelerator})")
        self.machine.wait_for_boot(0, 60)
        say(f"  multi-user {time.monotonic() - began:.0f} s after power-on, Secure Boot {self.secure_boot()}")
        self.note("first boot", f"{time.monotonic() - began:.0f} s under {accelerator}, Secure Boot {self.secure_boot()}")

    def enrol(self):
        """the agent proves its TPM and what it booted, and gets a certificate"""
        shown = self.wait_for_verdict("1.0", 60)
        self.note("enrolled", f"node {shown['id'][:8]}..., verdict on 1.0: trusted")

    def build_second_release(self):
        """version 2.0 is built and published"""
        self.build_release("2.0")
        self.publish("2.0")

    def roll_out(self):
        """rollout of 2.0: the node fetches, verifies, stages, reboots, and is attested on 2.0"""
        began, boots = time.monotonic(), self.machine.boots()
        created = json.loads(self.as_operator("rollout", "create", "--channel", CHANNEL, "--release", "2.0", "--waves", "100%", "-o", "json"))
        self.machine.wait_for_boot(boots, 120)
        say(f"  rebooted {time.monotonic() - began:.0f} s after the order")
        self.wait_for_verdict("2.0", 60)
        self.wait_for_rollout(created["id"], 60)
        self.note("upgraded", f"in {time.monotonic() - began:.0f} s, verdict on 2.0: trusted, rollout done")

    def wait_for_verdict(self, version, seconds):
        """Waits until the controller trusts the admitted node on that version; returns it as `node show` gives it.

        A machine that nobody admitted yet has a verdict too.
        """
        def trusted():
            node = self.only_node()
            verdict = node["verdict"] if node and node["admission"] == "admitted" else None
            if verdict and verdict["outcome"] == "trusted" and verdict["release_version"] == version:
                return node
            return None

        began = time.monotonic()
        node = wait_until(trusted, seconds * vm.patience(), f"a trusted verdict on {version}", pause=0.5)
        say(f"  trusted on {version} after {time.monotonic() - began:.0f} s")
        return node

    def only_node(self):
        """The node as `node list` shows it, or None while there is none."""
        nodes = json.loads(self.as_operator("node", "list", "-o", "json"))["nodes"]
        return nodes[0] if nodes else None

    def wait_for_rollout(self, rollout, seconds):
        def done():
            shown = json.loads(self.as_operator("rollout", "status", rollout, "-o", "json"))
            if shown["state"] not in ("running", "done"):
                raise LabError(f"the rollout is {shown['state']}: {shown}")
            return shown["state"] == "done"

        wait_until(done, seconds * vm.patience(), "the end of the rollout", pause=0.5)

    def as_operator(self, *arguments, **options):
        return self.sealift(*arguments, "--profile", self.work / "people/olga/profile.toml", **options)

    def as_approver(self, *arguments, **options):
        return self.sealift(*arguments, "--profile", self.work / "people/ada/profile.toml", **options)

    def secure_boot(self):
        return "on" if self.efi_variable("SecureBoot")[4:] == b"\1" else "off"

    # What chapters and checks ask the guest.

    def efi_variable(self, name):
        """A firmware variable as efivarfs shows it: four bytes of attributes, then the value."""
        return bytes.fromhex(self.machine.run(f"cat /sys/firmware/efi/efivars/{name}-* | od -An -v -tx1").replace("\n", ""))

    def pcr(self, index):
        return self.machine.run(f"cat /sys/class/tpm/tpm0/pcr-sha256/{index}").strip().lower()

    def chapters(self):
        return [self.make_tokens, self.make_keys, self.build_first_release, self.manufacture_node, self.start_controller,
                self.admit_node, self.first_boot, self.enrol, self.build_second_release, self.roll_out]

    def tell(self, after=lambda chapter: None):
        """Runs all chapters; `after` is called with the name of each that is over."""
        stop(self.work)
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        for number, chapter in enumerate(self.chapters(), 1):
            say(f"{number}. {chapter.__doc__}")
            chapter()
            after(chapter.__name__)

    def close(self):
        """Ends what runs; nothing when it was told to keep it."""
        if self.keep:
            return
        if self.machine is not None:
            self.machine.stop()
            self.machine = None
        if self.controller is not None:
            self.controller.stop()


def stop(work):
    """Ends what an earlier telling with --keep left running."""
    vm.stop_kept(pathlib.Path(work) / "node")
    controller_lab.stop_kept(pathlib.Path(work) / "controller")


def print_table(facts):
    width = max(len(what) for what, _ in facts)
    print()
    for what, value in facts:
        print(f"  {what:<{width}}  {value}")
    print()


def main():
    parser = argparse.ArgumentParser(description="Tells the main story on real parts.")
    parser.add_argument("--work", default=ROOT / "build/demo")
    parser.add_argument("--build", default=ROOT / "build/release")
    parser.add_argument("--keep", action="store_true", help="leave the machine running")
    parser.add_argument("--stop", action="store_true", help="end what --keep left running")
    options = parser.parse_args()
    if options.stop:
        stop(options.work)
        return 0
    end_on_signals()
    story = Story(options.work, options.build, options.keep)
    try:
        story.tell()
    except BaseException:
        story.keep = False
        raise
    finally:
        story.close()
    print_table(story.facts)
    if options.keep:
        sealift, people = story.programs / "sealift", story.work / "people"
        print(f"Everything is still running. For example:\n"
              f"  {sealift} node list --profile {people}/olga/profile.toml\n"
              f"  {HERE}/vm.py run {story.node.folder} 'systemctl status sealift-agent'\n"
              f"End it with:\n  bash deploy/demo.sh --stop\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (LabError, KeyboardInterrupt) as error:
        sys.exit(f"story: {error or 'interrupted'}")
