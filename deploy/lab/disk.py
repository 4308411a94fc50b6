#!/usr/bin/python3
"""Disks of lab nodes: one GPT disk image with ESP, COS_OEM and COS_PERSISTENT, without loop devices or mounts.

    disk.py RELEASE_TREE IMAGE      lays a release (the OUT of `sealift build-uki -t uki`) out as an installer would

Needs no root. An image must not be in use by a running machine while this module writes to it.
"""
import json
import os
import pathlib
import shutil
import sys
import tempfile

from processes import LabError, run

MIB = 1 << 20
ESP_START, ESP_SIZE = 1 * MIB, 512 * MIB
OEM_START, OEM_SIZE = ESP_START + ESP_SIZE, 64 * MIB
PERSISTENT_START, PERSISTENT_SIZE = OEM_START + OEM_SIZE, 512 * MIB
DISK_SIZE = PERSISTENT_START + PERSISTENT_SIZE + 1 * MIB
ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
LINUX_TYPE = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


class Release:
    """What `sealift build-uki` wrote: OUT/release.json and the files it names."""

    def __init__(self, tree):
        self.tree = pathlib.Path(tree)
        self.manifest = json.loads((self.tree / "release.json").read_text(encoding="utf-8"))
        self.version = self.manifest["version"]
        self.uki = self._only("uki", self.manifest["images"][0]["path"])  # the first is the one that nodes stage
        self.boot_loader = self._only("boot-loader")

    def _only(self, role, path=None):
        found = [entry for entry in self.manifest["files"] if entry["role"] == role and path in (None, entry["path"])]
        if len(found) != 1:
            raise LabError(f"{self.tree}/release.json has {len(found)} files of role {role}")
        return found[0]

    def path(self, entry):
        return self.tree / entry["path"]

    def image_name(self):
        """Where an installed node keeps this UKI: named by version and digest, shared by all roles."""
        return f"EFI/kairos/{self.version}-{self.uki['sha256'][:12]}.efi"


def entry_text(role, version, image, options=None):
    """A role's boot entry. An image is given by its path on the ESP."""
    order = {"active": "1active", "passive": "2passive", "recovery": "3recovery"}.get(role, role)
    text = f"title {role}\nsort-key {order}\nversion {version}\nefi /{image}\n"
    return text + (f"options {options}\n" if options else "")


def installed_tree(release, target):
    """The ESP of a freshly installed node: the image once, active.conf pointing to it, keys for the first boot."""
    target = pathlib.Path(target)
    for path in ("EFI/BOOT", "EFI/kairos", "loader/entries"):
        (target / path).mkdir(parents=True)
    shutil.copy(release.path(release.boot_loader), target / "EFI/BOOT/BOOTX64.EFI")
    shutil.copy(release.path(release.uki), target / release.image_name())
    shutil.copy(release.tree / "loader/loader.conf", target / "loader/loader.conf")
    shutil.copytree(release.tree / "loader/keys", target / "loader/keys")
    (target / "loader/entries/active.conf").write_text(entry_text("active", release.version, release.image_name()),
                                                       encoding="ascii")


def make_disk(image, esp_tree):
    """Writes a new disk whose ESP holds esp_tree; COS_OEM and COS_PERSISTENT are empty ext4. The file is sparse."""
    image = pathlib.Path(image)
    image.unlink(missing_ok=True)
    with open(image, "wb") as file:
        file.truncate(DISK_SIZE)
    table = "label: gpt\n" + "".join(
        f"start={start // 512}, size={size // 512}, type={kind}, name={name}\n" for start, size, kind, name in (
            (ESP_START, ESP_SIZE, ESP_TYPE, "ESP"), (OEM_START, OEM_SIZE, LINUX_TYPE, "COS_OEM"),
            (PERSISTENT_START, PERSISTENT_SIZE, LINUX_TYPE, "COS_PERSISTENT")))
    run("sfdisk", "--quiet", image, input=table)
    run("mkfs.vfat", "-F", "32", "-n", "ESP", "--offset", ESP_START // 512, image, ESP_SIZE // 1024)
    for start, size, label in ((OEM_START, OEM_SIZE, "COS_OEM"), (PERSISTENT_START, PERSISTENT_SIZE, "COS_PERSISTENT")):
        run("mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-E", f"offset={start},root_owner=0:0", image, f"{size // 1024}k")
    esp_put_tree(image, esp_tree)


def _drive(image):
    return f"{image}@@{ESP_START}"


def esp_put_tree(image, tree):
    run("mcopy", "-i", _drive(image), "-s", "-Q", "-o", *sorted(pathlib.Path(tree).iterdir()), "::/")


def esp_put(image, data, path):
    """Puts bytes or text at a path on the ESP, replacing what is there."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data if isinstance(data, bytes) else data.encode())
        file.flush()
        run("mcopy", "-i", _drive(image), "-o", file.name, f"::/{path}")


def esp_remove(image, path):
    run("mdel", "-i", _drive(image), f"::/{path}")


def esp_get(image, path):
    """The bytes of a file on the ESP."""
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "file")
        run("mcopy", "-i", _drive(image), f"::/{path}", copy)
        return pathlib.Path(copy).read_bytes()


def esp_list(image, path):
    """Names in a folder of the ESP, long ones, sorted."""
    lines = run("mdir", "-i", _drive(image), "-b", f"::/{path}").splitlines()
    return sorted(line.rstrip("/").rsplit("/", 1)[-1] for line in lines if line.strip())


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    release = Release(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        installed_tree(release, folder)
        make_disk(sys.argv[2], folder)
    print(f"{sys.argv[2]}: {release.version} as active, image {release.image_name()}")


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"disk.py: {error}")
