#!/usr/bin/python3
"""What somebody with the powered-off machine in hand can try: the disk in another, the ESP, the firmware's settings.

    attacks.py --from WORK_OF_install.py [--work DIR] [--results FILE]

Starts from the snapshot that install.py keeps of an installed and enrolled machine: disk, firmware variables, TPM.
Each attack is a twin of it, changed while it is off and then booted. Nothing that was planted is mounted or runs,
and the TPM gives the disk's secret to no other system. Exit code 0 only if every check passed.
"""
import hashlib
import json
import pathlib
import shutil
import sys
import tempfile

from checks import equal, snapshot_main

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/lab"))
import disk  # noqa: E402
import vm  # noqa: E402
from processes import run  # noqa: E402

MOUNTED = "findmnt -rno SOURCE,TARGET /oem /usr/local || true; findmnt -rno SOURCE,TARGET | grep -E ' (/oem|/usr/local)$' || true"
WHY = "journalctl -b -o cat -u sealift-unlock.service --no-pager"
PLACES = {"oem": " /oem", "persistent": " /usr/local"}
PASSPHRASE = b"chosen by the attacker"


class Attacked:
    """A twin of the installed machine, switched off."""

    def __init__(self, origin, work, name):
        self.node = vm.Node(origin / "snapshot-installed").copy(work / name)
        table = json.loads(run("sfdisk", "-J", self.node.disk))["partitiontable"]["partitions"]
        self.partitions = {part.get("name"): part for part in table}
        self.numbers = {part.get("name"): number + 1 for number, part in enumerate(table)}

    def place(self, name):
        """Offset and size in bytes."""
        part = self.partitions[name]
        return part["start"] * 512, part["size"] * 512

    def read(self, name, count=None):
        offset, size = self.place(name)
        with open(self.node.disk, "rb") as file:
            file.seek(offset)
            return file.read(count or size)

    def write(self, name, source):
        offset, size = self.place(name)
        assert source.stat().st_size <= size
        run("dd", f"if={source}", f"of={self.node.disk}", "bs=1M", f"seek={offset}", "oflag=seek_bytes", "conv=notrunc", "status=none")

    def esp(self):
        return f"{self.node.disk}@@{self.place('ESP')[0]}"

    def boot(self):
        return vm.Machine(self.node)


def boots_without_disks(attacked, reasons):
    """Boots the twin; each of these volumes is refused for its reason, neither mapped nor mounted."""
    with attacked.boot() as machine:
        machine.wait_for_boot(0, 120)
        said = machine.run(WHY)
        found = machine.run(MOUNTED)
        for name, allowed in reasons.items():
            assert PLACES[name] not in found, found
            line = next((line for line in said.splitlines() if f"volume {name}:" in line), "")
            assert any(reason in line for reason in allowed), f"volume {name} is not refused for {allowed}:\n{said}"
            equal(machine.run(f"test -e /dev/mapper/{name} && echo open || true").strip(), "")
        machine.power_off()


def another_system_on_the_same_tpm(origin, work):
    """Firmware without our keys starts the very image: PCR 11 has our values, and its .pcrsig is the genuine one."""
    attacked = Attacked(origin, work, "secure-boot-off")
    shutil.copy(vm.EMPTY_VARIABLES, attacked.node.variables)
    release = disk.Release(origin / "release-1.0")
    image = next(one for one in release.manifest["images"] if one["path"] == release.uki["path"])
    with attacked.boot() as machine:
        machine.wait_for_boot(0, 300)  # firmware without variables writes them all first
        equal(machine.run("od -An -tu1 -j4 -N1 /sys/firmware/efi/efivars/SecureBoot-*").strip(), "0")
        said = machine.run(WHY)
        equal(machine.run(MOUNTED).strip(), "")
        register = machine.run("cat /sys/class/tpm/tpm0/pcr-sha256/11").strip().lower()
        predicted = {phase["phase"]: phase["pcr11"] for phase in image["pcr11"]}
        assert register in predicted.values(), f"PCR 11 is {register}, the release predicts {predicted}"
        assert machine.run("test -s /.extra/tpm2-pcr-signature.json && echo there").strip() == "there"
        for name in ("oem", "persistent"):
            line = next((line for line in said.splitlines() if f"volume {name}:" in line), "")
            assert "VOLUME_LOCKED" in line, said
        machine.power_off()


def files_beside_the_image(origin, work):
    """A credential and a system extension beside the image: measured by the stub, refused by name, and no disk opens."""
    attacked = Attacked(origin, work, "beside")
    image = disk.Release(origin / "release-1.0").image_name()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tree = folder / "tree/usr/lib/systemd/system-generators"
        tree.mkdir(parents=True)
        (tree / "evil").write_text("#!/bin/sh\necho evil >/run/evil\n", encoding="ascii")
        (tree / "evil").chmod(0o755)
        release = folder / "tree/usr/lib/extension-release.d"
        release.mkdir()
        (release / "extension-release.evil").write_text("ID=_any\n", encoding="ascii")
        run("mksquashfs", folder / "tree", folder / "evil.raw", "-quiet", "-no-progress", "-all-root")
        (folder / "passwd.hashed-password.root.cred").write_text("", encoding="ascii")
        (folder / "tmpfiles.extra.cred").write_text("f /run/evil-credential - - - - evil\n", encoding="ascii")
        run("mmd", "-i", attacked.esp(), f"::/{image}.extra.d")
        run("mcopy", "-i", attacked.esp(), folder / "evil.raw", folder / "passwd.hashed-password.root.cred", folder / "tmpfiles.extra.cred",
            f"::/{image}.extra.d/")
    with attacked.boot() as machine:
        machine.wait_for_boot(0, 120)
        said = machine.run(WHY)
        equal(machine.run(MOUNTED).strip(), "")
        equal(machine.run("ls /.extra/sysext").strip(), "evil.raw")
        refused = machine.run("journalctl -b -o cat -u sealift-extensions.service --no-pager")
        assert "EXTENSION_NOT_LISTED" in refused, refused
        equal(machine.run("test -e /run/evil -o -e /usr/lib/systemd/system-generators/evil && echo ran || true").strip(), "")
        for name in ("oem", "persistent"):
            line = next((line for line in said.splitlines() if f"volume {name}:" in line), "")
            assert "VOLUME_LOCKED" in line, said
        machine.power_off()


def format_luks(path, size, *options):
    with open(path, "wb") as file:
        file.truncate(size)
    secret = path.with_suffix(".key")
    secret.write_bytes(PASSPHRASE)
    run("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file",
        secret, *options, path)


def encrypt_nothing(path):
    """Says in both copies of a LUKS2 header that the data are not encrypted, with checksums that fit (cryptsetup itself would need device mapper)."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(16)[8:], "big")
        for copy in range(2):
            file.seek(copy * size)
            header = bytearray(file.read(size))
            content = json.loads(header[4096:].split(b"\0")[0])
            for segment in content["segments"].values():
                segment["encryption"] = "cipher_null-ecb"
            header[4096:] = json.dumps(content, separators=(",", ":")).encode().ljust(size - 4096, b"\0")
            header[448:512] = bytes(64)
            header[448:480] = hashlib.sha256(header).digest()
            file.seek(copy * size)
            file.write(header)


def planted_volumes(origin, work):
    """Plaintext with our label for persistent; LUKS of the attacker with our UUID, label and token for oem."""
    attacked = Attacked(origin, work, "planted")
    with tempfile.TemporaryDirectory(dir=work) as folder:
        folder = pathlib.Path(folder)
        size = attacked.place("persistent")[1]
        plain = folder / "plain"
        with open(plain, "wb") as file:
            file.truncate(size)
        (folder / "tree/.state/sealift").mkdir(parents=True)
        run("mkfs.ext4", "-q", "-L", "COS_PERSISTENT", "-d", folder / "tree", plain)
        attacked.write("persistent", plain)

        header = folder / "header"
        header.write_bytes(attacked.read("oem", 16 << 20))
        uuid = run("cryptsetup", "luksUUID", header).strip()
        label = next((line.split()[1] for line in run("cryptsetup", "luksDump", header).splitlines() if line.startswith("Label:")), "")
        foreign = folder / "foreign"
        format_luks(foreign, attacked.place("oem")[1], "--uuid", uuid, "--label", label, "--subsystem", "sealift", "--sector-size", "512")
        tokens = json.loads(run("cryptsetup", "luksDump", "--dump-json-metadata", header))["tokens"]
        for number, token in tokens.items():
            copied = folder / f"token-{number}"
            copied.write_text(json.dumps(token | {"keyslots": ["0"]}), encoding="ascii")
            run("cryptsetup", "token", "import", "--token-id", number, "--json-file", copied, foreign)
        attacked.write("oem", foreign)

    boots_without_disks(attacked, {"persistent": ["VOLUME_NOT_ENCRYPTED"], "oem": ["VOLUME_FOREIGN", "VOLUME_LOCKED"]})


def genuine_header_without_cipher(origin, work):
    """The machine's own header, token and all, of which only the cipher is changed to one that encrypts nothing."""
    attacked = Attacked(origin, work, "null-cipher")
    with tempfile.TemporaryDirectory(dir=work) as folder:
        header = pathlib.Path(folder) / "header"
        header.write_bytes(attacked.read("oem", 16 << 20))
        encrypt_nothing(header)
        assert "cipher_null-ecb" in run("cryptsetup", "luksDump", header)
        attacked.write("oem", header)
    boots_without_disks(attacked, {"oem": ["VOLUME_NOT_ENCRYPTED"]})


def swapped_volumes(origin, work):
    """Both genuine, each in the other's place."""
    attacked = Attacked(origin, work, "swapped")
    run("sfdisk", "--part-label", attacked.node.disk, str(attacked.numbers["oem"]), "persistent")
    run("sfdisk", "--part-label", attacked.node.disk, str(attacked.numbers["persistent"]), "oem")
    boots_without_disks(attacked, {"persistent": ["VOLUME_FOREIGN"], "oem": ["VOLUME_FOREIGN"]})


def untouched(origin, work):
    """The twin as it is opens its disk: what the attacks show is theirs."""
    attacked = Attacked(origin, work, "untouched")
    with attacked.boot() as machine:
        machine.wait_for_boot(0, 120)
        found = machine.run(MOUNTED)
        assert "/dev/mapper/oem /oem" in found and "/dev/mapper/persistent /usr/local" in found, found
        machine.power_off()


ATTACKS = [
    ("the snapshot itself opens its disk", untouched),
    ("another system on the same TPM with our PCR 11 and .pcrsig: refused by the TPM", another_system_on_the_same_tpm),
    (".cred and .raw beside the image: neither run nor unlock", files_beside_the_image),
    ("plaintext and foreign volumes: not mounted", planted_volumes),
    ("a volume whose header says that nothing is encrypted: not mounted", genuine_header_without_cipher),
    ("swapped volumes: not mounted", swapped_volumes),
]


def cases(origin, work, only):
    return [(name, lambda one=attack: one(origin, work)) for name, attack in ATTACKS if not only or attack.__name__ in only]


if __name__ == "__main__":
    sys.exit(snapshot_main("Attacks on a powered-off machine.", "build/e2e-attacks", cases))
