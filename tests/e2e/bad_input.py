#!/usr/bin/python3
"""Machines that must not be installed, media that go away, disks that are damaged: a clear sentence, and nothing is touched.

    bad_input.py [--from WORK_OF_install.py] [--work DIR] [--results FILE] [--only NAME...]

Uses the ISO, the keys in firmware and the machine that install.py left. Exit code 0 only if every check passed.
"""
import pathlib
import re
import shutil
import sys

from attacks import Attacked
from checks import equal, snapshot_main

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/lab"))
import vm  # noqa: E402
from install import DISK_BYTES, ISO_MEMORY  # noqa: E402
from processes import LabError, say  # noqa: E402

REFUSED = "sealift-agent: [A-Z_]+: .*"


class Media:
    """Machines that boot the ISO with this fleet's keys in their firmware and an empty disk."""

    def __init__(self, origin, work):
        self.origin, self.work = origin, work
        self.iso = origin / "media/install.iso"
        self.vendor = vm.TpmVendor(origin / "tpm-vendor")

    def node(self, name, disk_bytes=DISK_BYTES):
        node = vm.Node.new(self.work / name, self.vendor)
        shutil.copy(self.origin / "snapshot-installed/vars.fd", node.variables)
        with open(node.disk, "wb") as file:
            file.truncate(disk_bytes)
        return node

    def refused(self, node, *sentences, **options):
        """Boots; the console has these sentences, and the disk was never written to."""
        with vm.Machine(node, memory=ISO_MEMORY, cd=self.iso, **options) as machine:
            found = machine.serial.wait(REFUSED, 120 * vm.patience(), unless="sealift-install: partitioning").group(0)
            machine.wait_for_boot(0, 60)
            reported = machine.run("sealift-agent preflight || true")
            machine.power_off()
        for sentence in sentences:
            assert re.search(sentence, found), f"'{sentence}' is not in: {found}"
        untouched(node)
        return reported


def untouched(node):
    """No block of the disk's file was ever written."""
    equal(node.disk.stat().st_blocks, 0)


def change_variable(node, name, change):
    """Changes the value of a firmware variable where it lies in the flash, in every copy; `change`: bytes to bytes of the same length."""
    flash = bytearray(node.variables.read_bytes())
    wanted = name.encode("utf-16-le") + b"\0\0"
    at, changed = flash.find(wanted), 0
    while at >= 0:
        size = int.from_bytes(flash[at - 20:at - 16], "little")  # of the value, in EDK II's AUTHENTICATED_VARIABLE_HEADER
        begin = at + len(wanted)
        value = bytes(flash[begin:begin + size])
        flash[begin:begin + size] = change(value)
        changed += 1
        at = flash.find(wanted, begin)
    if not changed:
        raise LabError(f"no variable {name} in {node.variables}")
    node.variables.write_bytes(flash)


def no_tpm_and_small_disk(media):
    """no TPM, and a disk that is too small: both are told at once"""
    reported = media.refused(media.node("no-tpm", 300 << 20), "no usable TPM 2.0", "install on .*: the partitions need", tpm=False)
    assert re.search("refused +tpm", reported) and re.search("refused +disk", reported), reported


def secure_boot_off(media):
    """Secure Boot switched off in the firmware's setup"""
    node = media.node("off")
    change_variable(node, "SecureBootEnable", lambda value: b"\0" * len(value))
    media.refused(node, "SECURE_BOOT_OFF", "switched off in the firmware's setup")


def wrong_keys(media):
    """a KEK of somebody else beside our db"""
    node = media.node("foreign")
    change_variable(node, "KEK", lambda value: value[:-1] + bytes([value[-1] ^ 1]))
    media.refused(node, "SECURE_BOOT_FOREIGN", "KEK")


def medium_pulled_out(media):
    """the medium goes while the release on it is verified"""
    node = media.node("pulled")
    with vm.Machine(node, memory=ISO_MEMORY, cd=media.iso) as machine:
        machine.serial.wait("sealift-install: verifying the release", 120 * vm.patience(), unless=REFUSED)
        machine.pull_medium()
        found = machine.serial.wait(REFUSED, 120 * vm.patience(), unless="sealift-install: installed").group(0)
        say(f"  {found}")
        partitioned = "sealift-install: partitioning" in machine.serial.text()
        machine.stop()
    if not partitioned:
        untouched(node)


def damaged_header(media):
    """both copies of a volume's header are gone: told, and the machine is up"""
    attacked = Attacked(media.origin, media.work, "damaged")
    offset, _ = attacked.place("persistent")
    with open(attacked.node.disk, "r+b") as file:
        for copy in (0, 16 << 10):  # of LUKS2's usual 16 KiB each, the magic of both
            file.seek(offset + copy)
            file.write(bytes(8))
    with attacked.boot() as machine:
        machine.serial.wait("volume persistent: VOLUME_[A-Z_]+: .*", 120 * vm.patience())
        machine.wait_for_boot(0, 60)
        equal(machine.run("findmnt -no TARGET /oem; findmnt -no TARGET /usr/local; ls /dev/mapper").split(), ["/oem", "control", "data", "oem"])
        status = machine.run("for i in $(seq 60); do sealift-agent status -o json && exit; sleep 1; done", timeout=90)
        assert "STATE_MISSING" in status, status
        machine.power_off()


def one_damaged_copy(media):
    """one of the two copies of a header is gone: the other opens the volume"""
    attacked = Attacked(media.origin, media.work, "half-damaged")
    offset, _ = attacked.place("persistent")
    with open(attacked.node.disk, "r+b") as file:
        file.seek(offset)
        file.write(bytes(4096))
    with attacked.boot() as machine:
        machine.wait_for_boot(0, 120)
        equal(machine.run("findmnt -rno SOURCE /usr/local").strip(), "/dev/mapper/persistent")
        machine.power_off()


CASES = (no_tpm_and_small_disk, secure_boot_off, wrong_keys, medium_pulled_out, damaged_header, one_damaged_copy)


def cases(origin, work, only):
    media = Media(origin, work)
    return [(case.__doc__, lambda one=case: one(media)) for case in CASES if not only or case.__name__ in only]


if __name__ == "__main__":
    sys.exit(snapshot_main("Bad hardware, media and disks.", "build/e2e-bad-input", cases))
