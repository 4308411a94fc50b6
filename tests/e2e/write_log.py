"""Reads logs of writes in the format of Linux's dm-log-writes, as QEMU's blklogwrites writes them.

A log starts with a sector that says how many entries follow; each entry is a sector of header and, where it is a
write, the bytes written. Everything is little-endian (drivers/md/dm-log-writes.c, QEMU's block/blklogwrites.c).
"""
import dataclasses
import mmap
import struct

MAGIC, VERSION = 0x6A736677736872, 1
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
SECTOR = 512  # what addresses in entries count in


@dataclasses.dataclass(frozen=True)
class Entry:
    """One request that the disk took: bytes to write at an offset, or none for a flush."""
    number: int
    offset: int
    data: memoryview
    flush: bool
    discard: bool
    length: int  # of what is written or discarded


class WriteLog:
    """The entries of a log file, by number. The data of an entry is a view of the file, which stays mapped."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        magic, version, count, sector_size = struct.unpack_from("<QQQI", self._map)
        if (magic, version) != (MAGIC, VERSION):
            raise ValueError(f"{path} is no log of writes")
        self.entries = []
        view, at = memoryview(self._map), sector_size
        for number in range(count):
            sector, sectors, flags, length = struct.unpack_from("<QQQQ", view, at)
            at += sector_size
            if flags & (DISCARD | MARK):
                # Of a discard nothing follows; of a mark its name.
                data, skipped = view[at:at], length if flags & MARK else 0
                size = sectors * sector_size if flags & DISCARD else 0
            else:
                size = skipped = sectors * sector_size
                data = view[at:at + size]
            at += -(-skipped // sector_size) * sector_size
            if at > len(view):
                raise ValueError(f"{path}: entry {number} of {count} is cut off")
            self.entries.append(Entry(number, sector * sector_size, data, bool(flags & (FLUSH | FUA)), bool(flags & DISCARD), size))


def apply(entry, image, start=0, first=0, last=None):
    """Does to `image`, which is the disk from byte `start` on, what the entry does. `first` and `last` bound the bytes
    of the entry that arrive. Returns the range of the image that changed, or None."""
    last = entry.length if last is None else min(last, entry.length)
    begin = max(entry.offset + first - start, 0)
    end = min(entry.offset + last - start, len(image))
    if begin >= end:
        return None
    source = begin + start - entry.offset
    image[begin:end] = bytes(end - begin) if entry.discard else entry.data[source:source + end - begin]
    return begin, end
