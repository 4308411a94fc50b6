"""What an ESP is worth after each write: would it boot, into what, and does an agent that starts there go on.

An Esp is the partition in memory, to which the writes of a log are applied one by one; a verdict on each state costs
little, because only what a write touched is looked at again.
"""
import mmap
import os
import pathlib
import re
import shutil
import sys

import write_log
from fat import TEMPORARY, Damaged, Fat

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "deploy/lab"))
import disk  # noqa: E402
from processes import LabError, run  # noqa: E402

LOADER, ENTRIES = "EFI/BOOT/BOOTX64.EFI", "loader/entries/"


class Release:
    """What a release says of the files it puts on an ESP: path -> SHA-256."""

    def __init__(self, release):
        self.release, self.version = release, release.version
        self.image, self.image_digest = release.image_name(), release.uki["sha256"]
        self.extensions = {f"{self.image}.extra.d/{pathlib.Path(entry['path']).name}": entry["sha256"]
                           for entry in release.manifest["files"] if entry["role"] == "extension"
                           and entry["path"].startswith(release.uki["path"] + ".extra.d/")}


class Entry:
    """One boot entry as systemd-boot reads it; None where it would pass it over."""

    def __init__(self, path, fields):
        name = path[len(ENTRIES):-len(".conf")]
        counted = re.fullmatch(r"(.*)\+(\d+)(?:-(\d+))?", name)
        self.path, self.id = path, counted.group(1) if counted else name
        self.left = int(counted.group(2)) if counted else None
        self.done = int(counted.group(3) or 0) if counted else 0
        self.version, self.image = fields.get("version", ""), fields["efi"].lstrip("/")
        self.sort_key = fields.get("sort-key", "")

    @staticmethod
    def parse(path, text):
        fields = dict(line.split(None, 1) for line in text.splitlines() if len(line.split(None, 1)) == 2)
        return Entry(path, fields) if "efi" in fields else None

    def rank(self):
        return (self.left == 0, self.sort_key)


class Esp:
    """The partition in memory."""

    def __init__(self, image, releases, loader_digest):
        self.bytes = mmap.mmap(-1, disk.ESP_SIZE)
        with open(image, "rb") as file:
            file.seek(disk.ESP_START)
            self.bytes[:] = file.read(disk.ESP_SIZE)
        self.releases = {release.version: release for release in releases}
        self.loader_digest = loader_digest
        self._digests, self._watched, self._look = {}, [], None

    def apply(self, entry, first=0, last=None):
        """Applies an entry of the log, or part of it. Whether anything on the partition changed."""
        changed = write_log.apply(entry, self.bytes, disk.ESP_START, first, last)
        if changed is not None:
            self._touch(*changed)
        return changed is not None

    def overlaps(self, entry):
        return not (entry.offset + entry.length <= disk.ESP_START or entry.offset >= disk.ESP_START + disk.ESP_SIZE) and entry.length > 0

    def saved(self, entry):
        """The bytes under an entry, to be put back with restore()."""
        begin = max(entry.offset - disk.ESP_START, 0)
        end = min(entry.offset + entry.length - disk.ESP_START, disk.ESP_SIZE)
        return begin, self.bytes[begin:end]

    def restore(self, saved):
        begin, data = saved
        self.bytes[begin:begin + len(data)] = data
        self._touch(begin, begin + len(data))

    def _touch(self, begin, end):
        self._digests = {key: value for key, value in self._digests.items()
                         if not any(begin < stop and start < end for start, stop in value[1])}
        if self._look is not None and any(begin < stop and start < end for start, stop in self._watched):
            self._look = None

    def look(self):
        """(Fat, files): read anew only where tables, folders or entries changed."""
        if self._look is None:
            fat = Fat(self.bytes)
            files, folders = fat.files()
            watched = [node for path, node in files.items() if path.startswith(ENTRIES)] + list(folders.values())
            self._watched = [(0, fat.data_start)] + [stretch for node in watched for stretch in self._stretches(fat, node)]
            self._look = fat, files
        return self._look

    def changes_structure(self, entry):
        """Whether an entry writes to what look() reads."""
        try:
            self.look()
        except Damaged:
            return True
        begin, end = entry.offset - disk.ESP_START, entry.offset + entry.length - disk.ESP_START
        return any(begin < stop and start < end for start, stop in self._watched)

    @staticmethod
    def _stretches(fat, node):
        return [(fat.place(first), fat.place(first) + count * fat.cluster_bytes) for first, count in node.runs]

    def digest(self, path):
        fat, files = self.look()
        node = files[path]
        key = (node.size, node.runs)
        if key not in self._digests:
            self._digests[key] = fat.digest(node), self._stretches(fat, node)
        return self._digests[key][0]

    def entries(self):
        fat, files = self.look()
        found = [Entry.parse(path, fat.read(node).decode("latin-1")) for path, node in files.items()
                 if path.startswith(ENTRIES) and path.lower().endswith(".conf")]
        return sorted((entry for entry in found if entry is not None), key=Entry.rank)

    def listing(self):
        """What the entries say, as text: changes where an entry is flipped."""
        fat, files = self.look()
        return tuple(sorted((path, fat.read(node)) for path, node in files.items() if path.startswith(ENTRIES)))

    def choice(self):
        """What systemd-boot starts by itself, or None."""
        entries = self.entries()
        return entries[0] if entries else None

    def incomplete(self, entry):
        """Why an entry does not lead to a whole image of its release; empty where it does."""
        _, files = self.look()
        release = self.releases.get(entry.version)
        if release is None:
            return f"{entry.path} is of no release we know ('{entry.version}')"
        wanted = {entry.image: release.image_digest, **release.extensions}
        beside = {path for path in files if path.startswith(f"{entry.image}.extra.d/") and not path.endswith(TEMPORARY)}
        if beside != set(release.extensions):
            return f"{entry.path}: beside its image lie {sorted(beside)}"
        for path, digest in wanted.items():
            if path not in files:
                return f"{entry.path}: '{path}' is not there"
            if files[path].damage:
                return f"{entry.path}: '{path}' {files[path].damage}"
            if self.digest(path) != digest:
                return f"{entry.path}: '{path}' holds other bytes than {release.version} says"
        return ""

    def problems(self):
        """What is wrong with this state; an empty list is a machine that boots and stays whole."""
        try:
            fat, files = self.look()
        except Damaged as error:
            return [f"cannot be mounted: {error}"]
        found = []
        if LOADER not in files or files[LOADER].damage or self.digest(LOADER) != self.loader_digest:
            found.append("the boot loader is not whole")
        chosen = self.choice()
        if chosen is None:
            return found + ["no entry boots"]
        if chosen.left == 0:
            found.append(f"{chosen.path} is all that is left, out of tries")
        why = self.incomplete(chosen)
        if why:
            found.append(f"the boot loader would choose {why}")
        kept = {LOADER, chosen.image, chosen.path} | {entry.image for entry in self.entries()}
        owners = {}
        for path, node in sorted(files.items(), key=lambda item: item[0] not in kept):
            for first, count in node.runs:
                for other, (begin, stop) in owners.items():
                    if first < stop and begin < first + count:
                        found.append(f"'{path}' shares clusters with '{other[0]}'")
                if path in kept:
                    owners[(path, first)] = first, first + count
        del fat
        return found

    def tree(self):
        """What an agent would see: path -> digest, or size and damage of what is broken."""
        _, files = self.look()
        return tuple(sorted((path, self.digest(path) if not node.damage else f"{node.size} {node.damage}")
                            for path, node in files.items()))

    def write_image(self, path):
        """The partition as a file, sparse."""
        with open(path, "wb") as file:
            for at in range(0, disk.ESP_SIZE, 1 << 20):
                piece = self.bytes[at:at + (1 << 20)]
                if piece.count(0) != len(piece):
                    file.seek(at)
                    file.write(piece)
            file.truncate(disk.ESP_SIZE)


class Restart:
    """Starts the agent's staging code on the files of a state, and boots in between as systemd-boot would."""

    def __init__(self, program, keys, target, pool):
        """`pool`: a folder in memory for copies of whole files, which are linked instead of written again."""
        self.program, self.target, self.pool = program, target, pathlib.Path(pool)
        self.signatures = b"\x27\0\0\0" + (keys / "db.esl").read_bytes()

    def _lay_out(self, esp, folder):
        fat, files = esp.look()
        for path, node in files.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if node.damage.startswith("is a folder"):
                place.mkdir()  # its name is taken; nobody may look into it
                continue
            if node.size < 1 << 20 or path.endswith(TEMPORARY) or node.damage:
                place.write_bytes(fat.read(node))
                continue
            whole = self.pool / esp.digest(path)
            if not whole.exists():
                whole.write_bytes(fat.read(node))
            os.link(whole, place)
        for name in ("EFI/kairos", ENTRIES):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def converge(self, esp, folder):
        """Until the target runs without a trial; says what was done. LabError where it does not come to that."""
        folder = pathlib.Path(folder)
        shutil.rmtree(folder, ignore_errors=True)
        tree, variables = folder / "esp", folder / "efivars"
        variables.mkdir(parents=True)
        self._lay_out(esp, tree)
        (variables / "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f").write_bytes(self.signatures)
        (variables / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(b"\6\0\0\0\1")
        done = []
        for boot in range(4):
            chosen = self._boot(tree, variables)
            done.append(run(self.program, tree, variables, folder / f"run-{boot}", chosen.version, self.target.release.tree).strip())
            if done[-1] == "blessed":
                self._check_end(tree)
                return done
        raise LabError(f"never came to an end: {done}")

    @staticmethod
    def _boot(tree, variables):
        entries = sorted((entry for entry in (Entry.parse(f"{ENTRIES}{path.name}", path.read_text(encoding="latin-1"))
                                              for path in (tree / ENTRIES).glob("*.conf")) if entry), key=Entry.rank)
        chosen = entries[0]
        selected = chosen.path[len(ENTRIES):]
        if chosen.left:
            (tree / chosen.path).rename(tree / f"{ENTRIES}{chosen.id}+{chosen.left - 1}-{chosen.done + 1}.conf")
        (variables / "LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f").write_bytes(
            b"\7\0\0\0" + selected.encode("utf-16-le") + b"\0\0")
        return chosen

    def _check_end(self, tree):
        names = {path.name for path in (tree / ENTRIES).iterdir()}
        if "active.conf" not in names or any("+" in name or name.endswith(TEMPORARY) for name in names):
            raise LabError(f"entries at the end: {sorted(names)}")
        entry = Entry.parse(f"{ENTRIES}active.conf", (tree / ENTRIES / "active.conf").read_text(encoding="latin-1"))
        if (entry.version, entry.image) != (self.target.version, self.target.image):
            raise LabError(f"active.conf names {entry.image}")
        for path, digest in {self.target.image: self.target.image_digest, **self.target.extensions}.items():
            if run("sha256sum", tree / path).split()[0] != digest:
                raise LabError(f"'{path}' holds other bytes at the end")
