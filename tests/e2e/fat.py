"""A reader of FAT32 in memory that trusts nothing, after Microsoft's "FAT32 File System Specification" 1.03."""
import array
import dataclasses
import hashlib
import struct

FREE, BAD, END = 0, 0x0FFFFFF7, 0x0FFFFFF8
MASK = 0x0FFFFFFF
DIRECTORY, VOLUME, LONG_NAME = 0x10, 0x08, 0x0F
TEMPORARY = ".sealift-tmp"  # node-agent/esp/file_system.h

# FAT compares names without regard to case; those who look a name up do not.
USUAL = {name.lower(): name for name in ("EFI", "BOOT", "BOOTX64.EFI", "kairos", "systemd", "loader", "entries")}


class Damaged(Exception):
    """Something that no driver could make sense of."""


@dataclasses.dataclass(frozen=True)
class Node:
    """A file: its size and where its clusters lie, as ((first, count), ...)."""
    size: int
    runs: tuple
    damage: str  # empty where the chain of clusters fits the size


class Fat:
    """One look at a file system. `image`: its bytes, which must not change meanwhile."""

    def __init__(self, image):
        self.image = image
        boot = bytes(image[:512])
        if boot[510:] != b"\x55\xaa":
            raise Damaged("no boot sector")
        self.sector, self.per_cluster, reserved, copies = struct.unpack_from("<HBHB", boot, 11)
        sectors, = struct.unpack_from("<I", boot, 32)
        fat_sectors, = struct.unpack_from("<I", boot, 36)
        self.root, = struct.unpack_from("<I", boot, 44)
        if self.sector != 512 or not self.per_cluster or not copies or not fat_sectors or sectors * 512 > len(image):
            raise Damaged("a boot sector that says nonsense")
        self.cluster_bytes = self.per_cluster * self.sector
        self.data_start = (reserved + copies * fat_sectors) * 512
        self.clusters = (sectors * 512 - self.data_start) // self.cluster_bytes
        self.table = array.array("I")
        self.table.frombytes(bytes(image[reserved * 512:reserved * 512 + (self.clusters + 2) * 4]))

    def place(self, cluster):
        """Where a cluster begins in the image."""
        return self.data_start + (cluster - 2) * self.cluster_bytes

    def chain(self, first, most):
        """The clusters of a chain as runs, and what is wrong with it: at most `most` are followed."""
        runs, table, cluster, count, begun, length = [], self.table, first, 0, first, 0
        while True:
            if not 2 <= cluster < self.clusters + 2:
                return tuple(runs), f"leads to cluster {cluster}"
            follower = table[cluster] & MASK
            count, length = count + 1, length + 1
            if follower != cluster + 1:
                runs.append((begun, length))
                begun, length = follower, 0
            if follower >= END:
                return tuple(runs), ""
            if follower in (FREE, BAD):
                return tuple(runs), f"cluster {cluster} of it is marked {'free' if follower == FREE else 'bad'}"
            if count > most:
                return tuple(runs), "is longer than its file"
            cluster = follower

    def file(self, first, size):
        need = -(-size // self.cluster_bytes)
        if need == 0:
            return Node(size, (), "" if first == 0 else "an empty file has clusters")
        runs, damage = self.chain(first, need)
        have = sum(count for _, count in runs)
        return Node(size, runs, damage or ("" if have >= need else f"has {have} of {need} clusters"))

    def read(self, node):
        """The bytes of a file, as far as its clusters go."""
        parts, left = [], node.size
        for first, count in node.runs:
            take = min(left, count * self.cluster_bytes)
            parts.append(bytes(self.image[self.place(first):self.place(first) + take]))
            left -= take
        return b"".join(parts)

    def digest(self, node):
        found, left = hashlib.sha256(), node.size
        for first, count in node.runs:
            take = min(left, count * self.cluster_bytes)
            found.update(self.image[self.place(first):self.place(first) + take])
            left -= take
        return found.hexdigest()

    def files(self):
        """Every file by its path, and the folders: ({path: Node}, {path: Node}). Damaged for a broken folder."""
        found, folders = {}, {}
        waiting = [("", self.root)]
        while waiting:
            path, first = waiting.pop()
            runs, damage = self.chain(first, 4096)
            if path.endswith(TEMPORARY):  # nobody looks into it
                found[path] = Node(0, (), f"is a folder that {damage or 'was left over'}")
                continue
            if damage:
                raise Damaged(f"folder '{path}' {damage}")
            folders[path] = Node(0, runs, "")
            raw = b"".join(bytes(self.image[self.place(start):self.place(start) + count * self.cluster_bytes]) for start, count in runs)
            for name, attributes, cluster, size in _directory(raw):
                name = USUAL.get(name.lower(), name)
                below = f"{path}/{name}" if path else name
                if attributes & DIRECTORY:
                    if len(folders) + len(waiting) > 1000:
                        raise Damaged("too many folders")
                    waiting.append((below, cluster))
                else:
                    found[below] = self.file(cluster, size)
        return found, folders


def _directory(raw):
    """(name, attributes, first cluster, size) of what a folder's bytes hold."""
    long_name = {}
    for at in range(0, len(raw), 32):
        slot = raw[at:at + 32]
        if slot[0] == 0:
            return
        if slot[0] == 0xE5:
            long_name = {}
            continue
        if slot[11] & 0x3F == LONG_NAME:
            long_name[slot[0] & 0x1F] = (slot[13], slot[1:11] + slot[14:26] + slot[28:32])
            continue
        if slot[11] & VOLUME:
            long_name = {}
            continue
        base, extension = slot[:8].rstrip(b" ").decode("latin-1"), slot[8:11].rstrip(b" ").decode("latin-1")
        base = base.lower() if slot[12] & 0x08 else base  # as Windows NT tells small letters in short names
        extension = extension.lower() if slot[12] & 0x10 else extension
        short = f"{base}.{extension}" if extension else base
        total = 0
        for byte in slot[:11]:
            total = (((total & 1) << 7) + (total >> 1) + byte) & 0xFF
        name, parts = short, [long_name.get(number) for number in range(1, len(long_name) + 1)]
        if parts and all(part is not None and part[0] == total for part in parts):
            name = b"".join(part[1] for part in parts).decode("utf-16-le", "replace").split("\0")[0].rstrip("\uffff")
        long_name = {}
        if short in (".", ".."):
            continue
        high, = struct.unpack_from("<H", slot, 20)
        low, size = struct.unpack_from("<HI", slot, 26)
        yield name, slot[11], (high << 16) | low, size
