"""Whether the tree that a machine runs from is the one its image was built from, file by file."""
import hashlib
import os
import pathlib
import stat

# What the builder adds or writes anew.
ADDED = ("lib/sealift/node.toml", "lib/sealift/built", "lib/sealift/epoch", "lib/sealift/pcr-keys.pem", "lib/sealift/keys")
PRUNED = " -o ".join(f"-path ./{name}" for name in ("local",) + ADDED)

# Of /usr: type, permissions, owner, names of the file, and content or target. Sorted by bytes; the mount on /usr/local is not looked into.
GUEST = rf"""cd /usr && export LC_ALL=C && find . -mindepth 1 -xdev \( {PRUNED} \) -prune -o \
  \( -type d -printf 'd %m %U %G - %P\n' -o -type l -printf 'l - %U %G %l %P\n' -o -type f -printf 'f %m %U %G %n %P\n' \) | sort &&
find . -xdev \( {PRUNED} \) -prune -o -type f -printf '%P\0' | sort -z | xargs -0 sha256sum -z | tr '\0' '\n'"""


def host_listing(tree):
    """The same of the folder the image was built from."""
    usr = pathlib.Path(tree) / "usr"
    described, hashed = [], []
    for folder, folders, files in os.walk(usr):
        for name in folders + files:
            path = pathlib.Path(folder) / name
            relative = path.relative_to(usr).as_posix()
            if relative in ADDED or relative == "local" or relative.startswith("local/"):
                continue
            info = path.lstat()
            # Built by somebody else than root, a tree is root's all the same.
            owner = (0, 0) if os.geteuid() else (info.st_uid, info.st_gid)
            mode = f"{stat.S_IMODE(info.st_mode):o}"
            if stat.S_ISLNK(info.st_mode):
                described.append(f"l - {owner[0]} {owner[1]} {os.readlink(path)} {relative}")
            elif stat.S_ISDIR(info.st_mode):
                described.append(f"d {mode} {owner[0]} {owner[1]} - {relative}")
            elif stat.S_ISREG(info.st_mode):
                described.append(f"f {mode} {owner[0]} {owner[1]} {info.st_nlink} {relative}")
                hashed.append((relative, hashlib.sha256(path.read_bytes()).hexdigest()))
    return sorted(described, key=os.fsencode) + [f"{digest}  {name}" for name, digest in sorted(hashed, key=lambda one: os.fsencode(one[0]))]


def compare(machine, tree, timeout):
    """Raises AssertionError with the first difference. Returns how many lines were compared."""
    expected = host_listing(tree)
    found = machine.run(GUEST, timeout=timeout).splitlines()
    for ours, theirs in zip(expected, found):
        assert ours == theirs, f"built from '{ours}', runs with '{theirs}'"
    assert len(expected) == len(found), f"{len(expected)} lines of the source, {len(found)} of the machine"
    return len(expected)
