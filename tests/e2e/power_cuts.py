#!/usr/bin/python3
"""The power goes at every write of an upgrade: what is left on the disk boots, and goes on.

    power_cuts.py [--build DIR] [--work DIR] [--results FILE]

A machine is upgraded with its disk under QEMU's blklogwrites. Every prefix of that log (docs/power-cuts.md) is replayed
into memory and looked at; every set of files that comes up is given to an agent that starts anew; some prefixes are
booted. SEALIFT_POWER_CUT_BOOTS: how many (default 12, at least two around each flip of an entry).
SEALIFT_POWER_CUT_REUSE=1: with the recording that lies in the work folder.
"""
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

from checks import equal, main
from esp_states import Esp, Release, Restart
from extensions import build_extension
from write_log import WriteLog, apply

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/lab"))
import disk  # noqa: E402
import story as main_story  # noqa: E402
import vm  # noqa: E402
from processes import LabError, run, say, wait_until  # noqa: E402

LEAST_PREFIXES, LEAST_BOOTS = 1000, 12
SECTOR = 512
LARGE = 64 << 10  # only an image is written in such pieces
MOST_TORN = 256  # of one write, from each end


class RecordedStory(main_story.Story):
    """The demo's story up to the upgrade, which brings an extension; the upgrade is recorded."""

    def __init__(self, work, build):
        super().__init__(work, build)
        self.base, self.log = vm.Node(self.work / "base"), self.work / "writes.log"

    def release_options(self, version):
        if version != "2.0":
            return ()
        return "--extension", build_extension(self, self.work / "upgraded", "greeting", "1.0", "hello from the upgrade")

    def record(self):
        """the upgrade to 2.0, with every write of the disk recorded"""
        self.machine.power_off()
        self.base = self.node.copy(self.work / "base")
        self.log.write_bytes(b"")
        rollout = json.loads(self.as_operator("rollout", "create", "--channel", main_story.CHANNEL, "--release", "2.0", "--waves", "100%",
                                              "-o", "json"))["id"]
        self.controller.stop()
        shutil.copytree(self.controller.folder / "state", self.work / "controller-then")
        self.resume("1.0", "2.0")
        self.machine = vm.Machine(self.node, forwards=self.controller.forwards(), write_log=self.log)
        self.machine.start()
        self.machine.wait_for_boot(1, 180)
        self.wait_for_verdict("2.0", 60)
        self.wait_for_rollout(rollout, 60)
        wait_until(lambda: set(self.machine.run("ls /efi/loader/entries").split()) == {"active.conf", "passive.conf"},
                   60 * vm.patience(), "the end of the trial", pause=0.5)
        self.machine.power_off()

    def chapters(self):
        return super().chapters()[:-1] + [self.record]

    def rewind(self):
        """The controller as it was when the recording began: a TPM whose clock goes back is not believed."""
        self.controller.stop()
        state = self.controller.folder / "state"
        shutil.rmtree(state)
        shutil.copytree(self.work / "controller-then", state)
        self.resume("1.0", "2.0")


class PowerCuts:
    def __init__(self, story, checks):
        self.story, self.check = story, checks.check
        self.releases = [Release(story.releases[version]) for version in ("1.0", "2.0")]
        self.log = WriteLog(story.log)
        self.prefixes = self.torn = self.flushes = 0
        self.failures = []
        self.flips, self.trees = [], {}

    def esp(self):
        loader = self.story.releases["1.0"].boot_loader["sha256"]
        return Esp(self.story.base.disk, self.releases, loader)

    def judge(self, esp, where):
        problems = esp.problems()
        if problems:
            self.failures.append(f"{where}: {'; '.join(problems)}")
        return problems

    def replay(self):
        """Every single write, torn ones where tables, folders or entries are written, and every flush."""
        esp, listing, began = self.esp(), None, time.monotonic()
        self.judge(esp, "before the first write")
        listing = esp.listing()
        for entry in self.log.entries:
            self.flushes += entry.flush
            if not esp.overlaps(entry):
                continue
            if entry.length > SECTOR and esp.changes_structure(entry):
                self.tear(esp, entry)
            esp.apply(entry)
            self.prefixes += 1
            if self.judge(esp, f"after write {entry.number}"):
                continue
            now = esp.listing()
            if now != listing:
                self.flips.append(entry.number)
                listing = now
            if esp.tree() not in self.trees:
                self.trees[esp.tree()] = entry.number
        say(f"  {self.prefixes} writes to the ESP of {len(self.log.entries)} in the log, {self.torn} torn ones, {self.flushes} flushes, "
            f"{len(self.flips)} changes of entries, {len(self.trees)} sets of files: {time.monotonic() - began:.0f} s")

    def tear(self, esp, entry):
        """Only the first sectors of a write arrive, or only the last."""
        saved, count = esp.saved(entry), entry.length // SECTOR
        for sectors in range(1, min(count, MOST_TORN)):
            for first, last in ((0, sectors * SECTOR), (entry.length - sectors * SECTOR, entry.length)):
                if esp.apply(entry, first, last):
                    self.torn += 1
                    self.judge(esp, f"{'first' if first == 0 else 'last'} {sectors} of {count} sectors of write {entry.number}")
                    esp.restore(saved)

    def broken_order(self):
        """What an agent would leave that flips the entry before the image is on the disk: the checker has to see it."""
        armed = next(number for number in self.flips if "active+3.conf" in self.names_at(number))
        large = [entry.number for entry in self.log.entries if entry.number < armed and self.esp_write(entry) and entry.length >= LARGE]
        half = large[len(large) // 2]
        esp = self.esp()
        for entry in self.log.entries[:armed + 1]:
            if entry.number < half or entry.length < LARGE:
                esp.apply(entry)
        problems = esp.problems()
        assert any("active+3.conf" in problem for problem in problems), f"the broken order passes: {problems}"

    def esp_write(self, entry):
        return entry.length > 0 and entry.offset < disk.ESP_START + disk.ESP_SIZE and entry.offset + entry.length > disk.ESP_START

    def names_at(self, number):
        esp = self.state(number)
        return [path.rpartition("/")[2] for path, text in esp.listing() if text]

    def state(self, number):
        """The ESP once all up to write `number` arrived."""
        esp = self.esp()
        for entry in self.log.entries[:number + 1]:
            esp.apply(entry)
        return esp

    def converge(self):
        """An agent starts on every set of files that came up."""
        wanted, failed, ends = set(self.trees.values()), [], {}
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            pool = pathlib.Path(folder) / "pool"
            pool.mkdir()
            restart = Restart(self.story.programs / "e2e_stage", self.story.keys, self.releases[1], pool)
            esp = self.esp()
            for entry in self.log.entries:
                esp.apply(entry)
                if entry.number not in wanted:
                    continue
                try:
                    done = " > ".join(restart.converge(esp, pathlib.Path(folder) / "state"))
                    ends[done] = ends.get(done, 0) + 1
                except LabError as error:
                    failed.append(f"after write {entry.number}: {error}")
        say(f"  {len(wanted)} restarts: " + ", ".join(f"{count} x {done}" for done, count in sorted(ends.items())))
        equal(failed, [])

    def fsck(self):
        """dosfsck finds no shared clusters, and nothing worse than what a cut leaves, at every change of an entry."""
        found, esp = [], self.esp()
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            image = pathlib.Path(folder) / "esp.img"
            for entry in self.log.entries:
                esp.apply(entry)
                if entry.number not in self.flips:
                    continue
                esp.write_image(image)
                try:
                    run("fsck.vfat", "-n", image)
                except LabError as error:  # it exits with 1 where it would mend something
                    found += [f"write {entry.number}: {line}" for line in str(error).splitlines()
                              if "share" in line or "bad" in line.lower() and "dirty" not in line.lower()]
        equal(found, [])

    # Real boots.

    def chosen_boots(self, count):
        """Prefixes right before and right after each flip of an entry, then others spread over the log."""
        wanted = sorted({number + delta for number in self.flips for delta in (-1, 0)})
        writes = [entry.number for entry in self.log.entries if self.esp_write(entry)]
        step = max(len(writes) // (count + 1), 1)
        for number in writes[step::step]:
            if len(wanted) >= count:
                break
            if number not in wanted:
                wanted.append(number)
        if len(wanted) > count:  # every flip keeps its two
            say(f"  {len(wanted)} boots are needed for two around each of {len(self.flips)} changes")
        return sorted(wanted)

    def boot(self, number, converge):
        """A machine whose power went after write `number`: it comes up whole; then, if told, it goes on to 2.0."""
        story = self.story
        node = story.base.copy(story.work / f"cut-{number}", disk=False)
        run("cp", "--sparse=always", "--reflink=auto", story.base.disk, node.disk)
        with open(node.disk, "r+b") as file:
            for entry in self.log.entries[:number + 1]:
                if entry.length:
                    file.seek(entry.offset)
                    file.write(bytes(entry.length) if entry.discard else entry.data)
        expected = self.state(number).choice().version
        if converge:
            story.rewind()
        with vm.Machine(node, forwards=story.controller.forwards() if converge else {}) as machine:
            machine.wait_for_boot(0, 90)
            equal(machine.run(". /etc/os-release; echo $VERSION_ID").strip(), expected)
            equal(machine.run("systemctl --failed --no-legend --plain"), "")
            wait_until(lambda: "node" in machine.run("sealift-agent status || true"), 60 * vm.patience(), "the agent's status", pause=0.5)
            assert "rw" in machine.run("findmnt -no OPTIONS /efi").strip().split(","), "the ESP is read-only"
            if converge:
                self.goes_on(machine, expected)
        shutil.rmtree(node.folder)
        return expected

    @staticmethod
    def goes_on(machine, version):
        if version != "2.0":
            machine.wait_for_boot(machine.boots(), 240)
        wait_until(lambda: {"active.conf"} <= set(machine.run("ls /efi/loader/entries").split()) and
                   machine.run(". /etc/os-release; echo $VERSION_ID").strip() == "2.0",
                   240 * vm.patience(), "2.0 without a trial", pause=1)
        equal(machine.run("greeting").strip(), "hello from the upgrade")

    def boots(self):
        count = int(os.environ.get("SEALIFT_POWER_CUT_BOOTS", str(LEAST_BOOTS)))
        began, numbers = time.monotonic(), self.chosen_boots(count)
        for index, number in enumerate(numbers):
            converge = index in (0, len(numbers) // 2)
            self.check(f"a machine cut after write {number} comes up whole" + (", and goes on to 2.0" if converge else ""),
                       lambda number=number, converge=converge: self.boot(number, converge))
        say(f"  {len(numbers)} prefixes booted: {time.monotonic() - began:.0f} s")
        assert len(numbers) >= min(count, LEAST_BOOTS), f"only {len(numbers)} prefixes were booted"


def tell(story, checks):
    if os.environ.get("SEALIFT_POWER_CUT_REUSE"):
        story.resume("1.0", "2.0")
    else:
        story.tell()
    say("every prefix of what the disk was told is looked at")
    cuts = PowerCuts(story, checks)
    cuts.replay()
    tried = cuts.prefixes + cuts.torn + cuts.flushes
    for failure in cuts.failures[:20]:
        say(f"     {failure}")
    checks.check(f"{tried} prefixes tried ({cuts.prefixes} single writes, {cuts.torn} torn ones, {cuts.flushes} flushes), "
                 f"{len(cuts.failures)} failures", lambda: equal(cuts.failures[:5], []))
    checks.check(f"at least {LEAST_PREFIXES} different states of the ESP were looked at",
                 lambda: equal(cuts.prefixes + cuts.torn >= LEAST_PREFIXES, True))
    checks.check("an entry flipped before the image is on the disk is caught", cuts.broken_order)
    checks.check(f"an agent that starts on any of {len(cuts.trees)} sets of files comes to the same end", cuts.converge)
    checks.check(f"dosfsck agrees at {len(cuts.flips)} changes of entries", cuts.fsck)
    cuts.boots()
    (story.work / "power-cuts.json").write_text(json.dumps({"tried": tried, "failures": len(cuts.failures), "flips": cuts.flips}), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main("Power cuts, at every write of an upgrade.", "build/power-cuts", RecordedStory, tell))
