#!/usr/bin/python3
"""A machine installs itself from the ISO, unlocks its encrypted disk, enrols, is upgraded, and falls back from a panic.

    install.py [--build DIR] [--work DIR] [--results FILE]

The ISO starts on a machine in setup mode: it enrols the keys, reboots under Secure Boot, installs onto an empty disk
with a signed configuration, and the machine then boots that disk. After each part disk, firmware variables and TPM are
kept as a snapshot in the work folder (snapshot-installed, snapshot-upgraded), for tests that start from there.
Exit code 0 only if every check passed.
"""
import hashlib
import json
import os
import pathlib
import shutil
import sys

from checks import equal, main

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/lab"))
import controller as controller_lab  # noqa: E402
import disk  # noqa: E402
import story as main_story  # noqa: E402
import vm  # noqa: E402
from processes import LabError, run, say, wait_until  # noqa: E402

DISK_BYTES = 2 << 30
SEEN = "tuf/seen"  # below the keys: what the publisher saw last of the controller, which must not go back
ISO_MEMORY = 1536

INSTALL_CONFIG = """#cloud-config
install:
  device: auto
  auto: true
  reboot: true
  consent: enrol-keys
  partitions:
    oem: {size: 64}
    persistent: {size: 256}
  extra-partitions:
    - name: second_partition
      size: 100
      fs: ext2
    - name: data
      size: 0
      fs: ext4
  encrypted_partitions: [data]
stages:
  before-install:
    - name: look at the overlay
      commands: [test -s /run/initramfs/live/data/motd]
  after-install:
    - name: copy from the medium
      commands:
        - |
          set -e
          mkdir -p /usr/local/.state/opt.bind /oem/opt.bind
          cp -v /run/initramfs/live/data/* /usr/local/.state/opt.bind/
          cp -v /run/initramfs/live/data/* /oem/opt.bind/
"""


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


class InstallStory(main_story.Story):
    """The main story, on a machine that installs itself."""

    def __init__(self, work, build):
        super().__init__(work, build)
        self.iso = None

    def config_text(self):
        text = controller_lab.node_config(self.keys)
        text = text[:text.index("[volumes]")]
        signer = (self.keys / "public/tuf-targets-1.pem").read_text(encoding="ascii")
        return text + f"[install]\nkeys = [{json.dumps(signer)}]\n"

    def rootfs(self, version):
        tree = self.work / f"rootfs-{version}"
        package, = (self.build / "packages").glob("sealift-agent_*.deb")
        self.build_rootfs(tree, "--version", version, "--agent-deb", package, "--installs")
        (self.work / "node.toml").write_text(self.config_text(), encoding="utf-8")
        return tree

    def build_release(self, version):
        # Of a higher epoch than 1.0, so that a machine may be raised above that.
        self.releases[version] = self.build_uki(self.rootfs(version), self.work / f"release-{version}", "--node-config",
                                                self.work / "node.toml", "--security-epoch", "2")

    def make_iso(self, name, text, change=None):
        """An ISO of 1.0 with a signed configuration, which `change` may spoil afterwards."""
        overlay = self.work / f"overlay-{name}"
        (overlay / "data").mkdir(parents=True)
        (overlay / "data/motd").write_text("from the medium\n", encoding="ascii")
        config = overlay / "install.yaml"
        config.write_text(text, encoding="ascii")
        self.sealift("install-config", "sign", config, "--keys", self.keys, *self.token_arguments("release"))
        if change is not None:
            config.write_text(change(text), encoding="ascii")
        self.sealift("build-uki", f"dir:{self.work / 'rootfs-1.0'}", "-t", "iso", "-d", self.work / "media", "-n", name, "-k", self.keys,
                     *self.token_arguments("release"), "--node-config", self.work / "node.toml", "--menu-timeout", "0",
                     "--secure-boot-enroll", "off", "--overlay-iso", overlay, timeout=600)
        return self.work / f"media/{name}.iso"

    def take_release_from(self, iso):
        """The release exactly as the medium carries it: what was installed is what is published."""
        start = next(part["start"] for part in json.loads(run("sfdisk", "-J", iso))["partitiontable"]["partitions"]
                     if part["type"] == disk.ESP_TYPE)
        tree = self.work / "release-1.0"
        tree.mkdir()
        run("mcopy", "-s", "-Q", "-i", f"{iso}@@{start * 512}", "::/EFI", "::/loader", "::/release.json", tree)
        for name in ("frames.json", "sbom.spdx.json"):
            run("xorriso", "-osirrox", "on", "-indev", iso, "-extract", f"/{name}", tree / name)
        self.releases["1.0"] = disk.Release(tree)

    def build_media(self):
        """version 1.0 as a medium with a signed configuration"""
        self.rootfs("1.0")
        self.iso = self.make_iso("install", INSTALL_CONFIG)
        self.take_release_from(self.iso)

    def new_node(self, name):
        node = vm.Node.new(self.work / name, self.vendor)
        with open(node.disk, "wb") as file:
            file.truncate(DISK_BYTES)
        return node

    def boot_iso(self, node, iso, until, seconds, unless="never said"):
        """Boots the ISO and waits for a line on the console. The machine is then told to stop in order."""
        with vm.Machine(node, memory=ISO_MEMORY, cd=iso) as machine:
            machine.serial.wait(until, seconds * vm.patience(), unless=unless)
            text = machine.serial.text()
            machine.wait_for_boot(0, 60)
            machine.power_off()
        return text

    def install(self):
        """the machine boots the ISO in setup mode, takes the keys, reboots, installs and reboots"""
        self.vendor = vm.TpmVendor(self.work / "tpm-vendor")
        self.node = self.new_node("node")
        with vm.Machine(self.node, memory=ISO_MEMORY, cd=self.iso) as machine:
            machine.serial.wait("sealift-install: PK enrolled", 90 * vm.patience(), unless="sealift-agent: [A-Z_]+:")
            say("  keys enrolled")
            machine.serial.wait("sealift-install: installed", 150 * vm.patience(), since=machine.serial.end(),
                                unless="sealift-agent: [A-Z_]+:")
            say("  installed")
            machine.serial.wait("sealift-install: rebooting", 10 * vm.patience())
            # The medium is pulled before firmware starts anew.
            run("sync")
            wait_until(lambda: "reboot: Restarting system" in machine.serial.text()[-4000:], 30 * vm.patience(), "the reboot")

    def boot_disk(self):
        """the installed machine boots its own disk"""
        self.machine = vm.Machine(self.node, forwards=self.controller.forwards())
        self.machine.start()
        self.machine.wait_for_boot(0, 60)

    def chapters(self):
        return [self.make_tokens, self.make_keys, self.build_media, self.install, self.start_controller, self.admit_node,
                self.boot_disk, self.enrol]


def check_layout(story):
    table = json.loads(run("sfdisk", "-J", story.node.disk))["partitiontable"]["partitions"]
    equal([part.get("name") for part in table], ["ESP", "oem", "persistent", "second_partition", "data"])
    image = story.releases["1.0"].image_name()
    start = table[0]["start"] * 512
    names = run("mdir", "-/", "-b", "-i", f"{story.node.disk}@@{start}", "::/")
    for path in (image, "EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi", "loader/entries/active.conf",
                 "loader/entries/passive.conf", "loader/entries/recovery.conf"):
        assert f"::/{path}" in names, f"{path} is not on the ESP:\n{names}"


def check_volumes(story):
    machine = story.machine
    found = machine.run("findmnt -rno SOURCE,TARGET,FSTYPE; lsblk -rno NAME,FSTYPE,PARTLABEL /dev/vda")
    assert "/dev/mapper/oem /oem ext4" in found and "/dev/mapper/persistent /usr/local ext4" in found, found
    for name in ("oem", "persistent", "data"):
        assert f"crypto_LUKS {name}" in found, found
    equal(machine.run("cat /usr/local/.state/opt.bind/motd /oem/opt.bind/motd"), "from the medium\nfrom the medium\n")
    record = json.loads(machine.run("cat /usr/local/.state/sealift/install.json"))
    equal(record["config_digest"], hashlib.sha256(INSTALL_CONFIG.encode()).hexdigest())
    equal(record["version"], "1.0")


def snapshot(story, name):
    """Powers the machine off and keeps what it is then."""
    story.machine.power_off()
    story.machine = None
    story.node.copy(story.work / f"snapshot-{name}")


def check_medium_left_in(story):
    twin = vm.Node(story.work / "snapshot-installed").copy(story.work / "twin")
    before = sha256(twin.disk)
    story.boot_iso(twin, story.iso, "DISK_HOLDS_INSTALLATION", 120, unless="sealift-install: partitioning")
    equal(sha256(twin.disk), before)


def check_changed_byte(story):
    iso = story.make_iso("changed", INSTALL_CONFIG, lambda text: text.replace("size: 100", "size: 101"))
    node = story.new_node("changed")
    before = sha256(node.disk)
    text = story.boot_iso(node, iso, "INSTALL_CONFIG_UNSIGNED", 120, unless="sealift-install: PK enrolled")
    assert "PK enrolled" not in text, "keys were enrolled by an unsigned configuration"
    equal(sha256(node.disk), before)


def upgrade(story):
    story.build_release("2.0")
    story.publish("2.0", *main_story.NO_DELTAS)
    story.roll_out()
    check_unlocked(story)


def check_unlocked(story):
    found = story.machine.run("findmnt -rno SOURCE /usr/local")
    equal(found.strip(), "/dev/mapper/persistent")


def check_panic_falls_back(story):
    """A release whose kernel panics: the one before boots, its disk opens, and the controller hears of it."""
    tree = story.work / "rootfs-3.0"
    story.build_rootfs(tree, "--version", "3.0", "--panics")
    # Without the node configuration it would carry no signature for encrypted volumes, and never be armed.
    story.releases["3.0"] = story.build_uki(tree, story.work / "release-3.0", "--node-config", story.work / "node.toml")
    story.publish("3.0", *main_story.NO_DELTAS)
    boots = story.machine.boots()
    story.as_operator("rollout", "create", "--channel", main_story.CHANNEL, "--release", "3.0", "--waves", "100%")
    story.machine.wait_for_boot(boots, 180)
    equal(story.machine.run(". /etc/os-release; echo $VERSION_ID").strip(), "2.0")
    check_unlocked(story)
    wait_until(lambda: any(failure["version"] == "3.0" for failure in story.only_node().get("failures", [])),
               60 * vm.patience(), "the failure of 3.0 at the controller", pause=1)


def tell(story, checks):
    shutil.rmtree(story.work, ignore_errors=True)
    story.work.mkdir(parents=True)
    for chapter in story.chapters():
        say(chapter.__doc__)
        chapter()
        if chapter.__name__ == "install":
            checks.check("the disk has the partitions and the ESP of the plan", lambda: check_layout(story))
        if chapter.__name__ == "boot_disk":
            checks.check("volumes are encrypted, mounted, and hold what the hooks copied", lambda: check_volumes(story))
    checks.check("the installed machine is enrolled and trusted", lambda: None)
    if not os.environ.get("SEALIFT_INSTALL_CORE_ONLY"):
        snapshot(story, "installed")
        checks.check("the ISO booted again changes not a byte of the disk", lambda: check_medium_left_in(story))
        checks.check("one changed byte in the signed configuration stops before keys and disk", lambda: check_changed_byte(story))
        story.boot_disk()
    checks.check("upgraded to 2.0, and the disk opens", lambda: upgrade(story))
    checks.check("a release that panics falls back to 2.0, whose disk opens, and is reported", lambda: check_panic_falls_back(story))
    snapshot(story, "upgraded")
    # What the controller knows of it then, too (recovery.py).
    story.controller.stop()
    shutil.copytree(story.controller.folder / "state", story.work / "snapshot-upgraded/controller-state")
    shutil.copytree(story.keys / SEEN, story.work / "snapshot-upgraded/seen")


if __name__ == "__main__":
    sys.exit(main("A machine installs itself and lives on.", "build/e2e-install", InstallStory, tell))
