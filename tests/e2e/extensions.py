"""System extensions in a machine: the listed one is laid over; what is put beside the image by force is not.

Two boots of a release of its own, on copies of the enrolled node.
"""
import pathlib
import sys
import tempfile

from checks import equal

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "deploy/lab"))
import disk  # noqa: E402
import vm  # noqa: E402
from processes import run  # noqa: E402

VERSION = "4.0"


def build_extension(story, out, name, version, text, keys=None, tokens=None):
    """A signed extension with one program, which says `text`; by the story's own keys unless others are given."""
    tree = out / f"{name}-tree"
    program = tree / f"usr/bin/{name}"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho {text}\n", encoding="ascii")
    program.chmod(0o755)
    story.sealift("build-extension", tree, "-n", name, "--version", version, "--os-id", "sealift-lab", "-d", out,
                  "--keys", keys or story.keys, *(tokens or story.token_arguments("release")))
    return out / f"{name}.raw"


class Extensions:
    def __init__(self, story, checks, predictions):
        """`predictions`: what the product predicts of a release, PCR number -> hex."""
        self.story, self.check, self.predictions = story, checks.check, predictions
        self.work, self.strangers = story.work / "extensions", {}

    def run(self, enrolled):
        self.work.mkdir(exist_ok=True)
        ours = self.build("hello", "1.0", "hello from the extension", self.story.keys, self.story.token_arguments("release"))
        release = self.story.build_uki(self.story.work / "rootfs-2.0", self.work / "release", "--version", VERSION, "--extension", ours)
        self.check("a listed extension is laid over /usr, and PCR 13 is as the release says", lambda: self.merged(enrolled, release, ours))
        self.check("extensions put beside the image by force are refused", lambda: self.forced(enrolled, release))

    def build(self, name, version, text, keys, tokens, folder="ours"):
        return build_extension(self.story, self.work / folder, name, version, text, keys, tokens)

    def machine(self, enrolled, release, name, images):
        node = enrolled.copy(self.work / f"node-{name}", disk=False)
        with tempfile.TemporaryDirectory() as tree:
            disk.installed_tree(release, tree)
            beside = pathlib.Path(tree) / f"{release.image_name()}.extra.d"
            beside.mkdir()
            for image_name, image in images.items():
                (beside / image_name).write_bytes(image.read_bytes())
            disk.make_disk(node.disk, tree)
        return vm.Machine(node, forwards=self.story.controller.forwards())

    def merged(self, enrolled, release, ours):
        with self.machine(enrolled, release, "merged", {"hello.raw": ours}) as machine:
            machine.wait_for_boot(0, 60)
            equal(machine.run("hello").strip(), "hello from the extension")
            equal(set(machine.run("systemctl show -P ActiveState,Result sealift-extensions.service").split()), {"active", "success"})
            equal(machine.run("systemctl --failed --no-legend --plain"), "")
            equal(machine.run("findmnt -no FSTYPE /usr").strip(), "overlay")
            assert "ro" in machine.run("findmnt -no OPTIONS /usr").strip().split(",")
            equal(machine.run("systemctl is-enabled systemd-sysext.service", check=False).strip(), "masked")
            measured = machine.run("cat /sys/class/tpm/tpm0/pcr-sha256/13").strip().lower()
            eleven = machine.run("cat /sys/class/tpm/tpm0/pcr-sha256/11").strip().lower()
        predicted = self.predictions(release)
        equal(measured, predicted[13])
        equal(eleven, release.manifest["pcr11"][-1]["pcr11"])

    def forced(self, enrolled, release):
        self.strangers = self.unwelcome()
        with self.machine(enrolled, release, "forced", self.strangers) as machine:
            machine.wait_for_boot(0, 60)
            assert machine.run("findmnt -no FSTYPE /usr", check=False).strip() != "overlay", "something is laid over /usr"
            refused(machine, {"hello.raw": "EXTENSION_SIGNATURE_INVALID", "other.raw": "EXTENSION_NOT_LISTED"})
            measured = machine.run("cat /sys/class/tpm/tpm0/pcr-sha256/13").strip().lower()
        assert measured != self.predictions(release)[13], "PCR 13 does not show it"

    def unwelcome(self):
        """One signed by a stranger, and one of ours that no release lists: name -> file."""
        stranger = self.work / "stranger"
        pin = stranger / "pin"
        pin.parent.mkdir(parents=True, exist_ok=True)
        run("openssl", "rand", "-hex", "-out", pin, "16")
        pin.chmod(0o600)
        tokens = []
        for group in ("root", "release", "online", "custody"):
            uri = self.story.sealift("token", "create", "--store", stranger / "tokens", "--label", f"stranger-{group}", "--pin-file", pin).strip()
            tokens += ["--token", f"{group}={uri}"]
        self.story.sealift("keys", "init", "stranger", *tokens, "--skip-microsoft-certs-I-KNOW-WHAT-IM-DOING",
                           "--controller-san", "IP:127.0.0.1", "-o", stranger / "keys")
        return {"hello.raw": self.build("hello", "1.0", "hello from a stranger", stranger / "keys", tokens, "foreign"),
                "other.raw": self.build("other", "1.0", "hello from another release", self.story.keys, self.story.token_arguments("release"),
                                        "unlisted")}


def refused(machine, reasons):
    """What a machine does that started with unwelcome ones beside its image, file -> reason."""
    said = machine.run("journalctl -b -u sealift-extensions.service --no-pager -o cat")
    for name, reason in reasons.items():
        assert f"{name} refused: {reason}" in said, said
    equal(machine.run("command -v hello other", check=False).strip(), "")
    equal(machine.run("systemctl is-failed sealift-extensions.service", check=False).strip(), "failed")
