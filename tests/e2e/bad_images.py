"""Images that firmware must refuse, each made from a good one by one change. Bytes in, bytes out."""
import pathlib
import struct
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "deploy/lab"))
from processes import LabError, run  # noqa: E402


def _layout(image):
    """(offset of the certificate directory entry, offset and size of the table, [(name, file offset, size), ...])."""
    header = struct.unpack_from("<I", image, 0x3C)[0]
    optional = header + 24
    if image[header:header + 4] != b"PE\0\0" or struct.unpack_from("<H", image, optional)[0] != 0x20B:
        raise LabError("not a PE32+ image")
    entry = optional + 112 + 8 * 4
    first = optional + struct.unpack_from("<H", image, header + 20)[0]
    sections = []
    for index in range(struct.unpack_from("<H", image, header + 6)[0]):
        fields = struct.unpack_from("<8sIIII", image, first + 40 * index)
        sections.append((fields[0].rstrip(b"\0").decode(), fields[4], fields[3]))
    return entry, *struct.unpack_from("<II", image, entry), sections


def unsigned(image):
    """Without its certificate table."""
    entry, start, size, _ = _layout(image)
    if size == 0 or start + size != len(image):
        raise LabError("the certificate table is not at the end")
    stripped = bytearray(image[:start])
    stripped[entry:entry + 8] = bytes(8)
    return bytes(stripped)


def tampered(image, section=".initrd"):
    """One bit of a section flipped, everything else as signed."""
    for name, start, size in _layout(image)[3]:
        if name == section:
            changed = bytearray(image)
            changed[start + size // 2] ^= 1
            return bytes(changed)
    raise LabError(f"no section {section}")


def truncated(image):
    """The first half, as after a download that stopped."""
    return image[:len(image) // 2]


def wrong_key(image):
    """Properly signed, by somebody whose certificate is not in db. By sbsign, so that ours cannot be at fault."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-x509", "-sha256", "-days", "30", "-subj", "/CN=Somebody else",
            "-keyout", folder / "key", "-out", folder / "certificate")
        (folder / "in").write_bytes(unsigned(image))
        run("sbsign", "--key", folder / "key", "--cert", folder / "certificate", "--output", folder / "out", folder / "in")
        run("sbverify", "--cert", folder / "certificate", folder / "out")
        return (folder / "out").read_bytes()
