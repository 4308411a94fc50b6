#!/usr/bin/python3
"""What goes wrong on a machine that was installed and upgraded, and how it comes back; orders that need two persons.

    recovery.py [--from WORK_OF_install.py] [--build DIR] [--results FILE] [--only NAME...]

Starts from the snapshot that install.py keeps of its upgraded machine and of its controller: 2.0 runs, after a release
that panicked. Releases that are unhealthy, that hang, or that would not open the disk are rolled out to it; it is reset
and its epoch raised by orders through the real command, daemon and agent. Exit code 0 only if every check passed.
"""
import argparse
import json
import pathlib
import re
import shutil
import sys

from checks import conclude, equal
from install import SEEN, InstallStory, check_unlocked

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/lab"))
import disk  # noqa: E402
import story as main_story  # noqa: E402
import vm  # noqa: E402
from processes import LabError, end_on_signals, run, wait_until  # noqa: E402

UNLOCK_LOG = "journalctl -b -o cat -u sealift-unlock.service --no-pager"
VERSION = ". /etc/os-release; echo $VERSION_ID"
ORDER = "EFI/sealift/order.dsse"
EPOCH = 2  # of 2.0 and those after it; that of 1.0 is 0
GOOD = "7.0"

# Hangs before the agent starts. In its first boot the system manager is gone, so that only a watchdog helps; then it is
# there, but waits for a unit that never ends.
HANG = """#!/bin/sh
echo "lab: hanging" >/dev/console
case $(tr -d '\\0' </sys/firmware/efi/efivars/LoaderBootCountPath-*) in
  *+2-1.conf) kill -SEGV 1 ;;
esac
exec sleep infinity
"""
HANG_UNIT = """[Unit]
After=sealift-unlock.service sealift-watchdog.service
Before=sealift-agent.service
[Service]
Type=oneshot
ExecStart=/usr/lib/hang
TimeoutStartSec=infinity
"""
# Shorter than in the package, for the sake of the test.
DEADLINE = "[Timer]\nOnBootSec=\nOnBootSec=150s\n"
WATCHDOG = "[Manager]\nRuntimeWatchdogSec=20s\n"


def esp_at(image):
    """How mtools find the ESP of an installed machine's disk."""
    table = json.loads(run("sfdisk", "-J", image))["partitiontable"]["partitions"]
    return f"{image}@@{next(part['start'] for part in table if part.get('name') == 'ESP') * 512}"


class Recovery(InstallStory):
    """The story of install.py, taken up where it ended."""

    def __init__(self, origin, build):
        super().__init__(origin, build)
        self.folder = self.work / "recovery"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.snapshot = self.work / "snapshot-upgraded"
        self.id = None

    def begin(self):
        """The controller as it was when the snapshot was taken, and the machine, trusted by it."""
        state = self.work / "controller/state"
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(self.snapshot / "controller-state", state)
        shutil.rmtree(self.keys / SEEN)
        shutil.copytree(self.snapshot / "seen", self.keys / SEEN)
        for person in ("olga-approves", "carla"):  # of an earlier run, with that controller's address
            shutil.rmtree(self.work / "people" / person, ignore_errors=True)
        self.resume("1.0", "2.0")
        self.node = vm.Node(self.snapshot).copy(self.folder / "node")
        self.start_machine()
        boot = self.machine.run("cat /proc/sys/kernel/random/boot_id").strip()
        wait_until(lambda: self.only_node()["running"]["boot_id"] == boot, 60 * vm.patience(), "a check-in", pause=1)
        self.id = self.wait_for_verdict("2.0", 60)["id"]

    def start_machine(self):
        self.machine = vm.Machine(self.node, forwards=self.controller.forwards())
        self.machine.start()
        self.machine.wait_for_boot(0, 60)

    def twin(self, name, **kept):
        """The machine as it is while it is off, a second time."""
        return self.node.copy(self.folder / name, **kept)

    # Releases that are no good.

    def make_release(self, version, more_config="", change=None, node_config=True, options=None):
        """Builds and publishes a release whose tree `change` may alter."""
        tree = self.folder / f"rootfs-{version}"
        package, = (self.build / "packages").glob("sealift-agent_*.deb")
        self.build_rootfs(tree, "--version", version, *(options or ("--agent-deb", package, "--installs")))
        if change is not None:
            change(tree)
        config = self.folder / f"node-{version}.toml"
        config.write_text(self.config_text() + more_config, encoding="utf-8")
        self.releases[version] = self.build_uki(tree, self.folder / f"release-{version}", "--security-epoch", str(EPOCH),
                                                *(("--node-config", config) if node_config else ()))
        self.publish(version, *main_story.NO_DELTAS)

    def begin_rollout(self, version):
        """Begins a rollout, in the place of one that a failure halted; returns the boot that the machine is in."""
        for rollout in json.loads(self.as_operator("rollout", "list", "-o", "json"))["rollouts"]:
            if rollout["state"] not in ("done", "aborted"):
                self.as_operator("rollout", "abort", rollout["id"])
        before = self.only_node()["running"]["boot_id"]
        self.as_operator("rollout", "create", "--channel", main_story.CHANNEL, "--release", version, "--waves", "100%")
        return before

    def failure(self, version, seconds):
        """What the controller was told about a version that failed."""
        return wait_until(lambda: next((one for one in self.only_node()["failures"] if one["version"] == version), None),
                          seconds * vm.patience(), f"the failure of {version} at the controller", pause=1)

    def back_on_passive(self, version, before, seconds):
        """Three tries of a version, then 2.0 by its passive entry, reported, and not tried again."""
        def fell_back():
            node = self.only_node()
            told = node["running"]["version"] == "2.0" and node["running"]["boot_id"] != before
            return next((one for one in node["failures"] if told and one["version"] == version), None)

        failure = wait_until(fell_back, seconds * vm.patience(), f"2.0 again, which tells that {version} failed", pause=2)
        equal(self.only_node()["running"]["role"], "passive")
        equal(self.machine.run(VERSION).strip(), "2.0")
        check_unlocked(self)
        boots, seen = self.machine.boots(), set()

        def turns():
            seen.add(self.only_node()["last_seen"])
            return len(seen) > 3

        wait_until(turns, 60 * vm.patience(), "three more check-ins", pause=1)
        equal((self.machine.boots(), self.only_node()["state"]), (boots, "idle"))
        return failure

    def unhealthy(self):
        """boots, but fails its health check"""
        self.make_release("5.0", '[health]\ncommands = ["/usr/bin/false"]\n[update]\nhealth_deadline_s = 10\n')
        boots = self.machine.boots()
        failure = self.back_on_passive("5.0", self.begin_rollout("5.0"), 360)
        equal(self.machine.boots(), boots + 4)  # three tries, and the fallback
        equal(failure["reason"], "HEALTH_FAILED")
        assert "/usr/bin/false" in failure["message"], failure

    def hangs(self):
        """hangs: rebooted by watchdog and boot deadline"""
        def change(tree):
            (tree / "usr/lib/hang").write_text(HANG, encoding="ascii")
            (tree / "usr/lib/hang").chmod(0o755)
            units = tree / "usr/lib/systemd/system"
            (units / "hang.service").write_text(HANG_UNIT, encoding="ascii")
            (tree / "etc/systemd/system/multi-user.target.wants/hang.service").symlink_to("/usr/lib/systemd/system/hang.service")
            (units / "sealift-boot-deadline.timer.d").mkdir()
            (units / "sealift-boot-deadline.timer.d/short.conf").write_text(DEADLINE, encoding="ascii")
            (tree / "usr/lib/systemd/system.conf.d/60-short.conf").write_text(WATCHDOG, encoding="ascii")

        self.make_release("6.0", change=change)
        since = self.machine.serial.end()
        self.back_on_passive("6.0", self.begin_rollout("6.0"), 600)
        said = self.machine.serial.text(since)
        equal(len(re.findall(r"\[ +0\.000000\] Linux version", said)), 4)  # three tries, and the fallback
        assert said.count("lab: hanging") >= 2, "it did not hang"  # a try may meet the deadline before

    def stays_locked(self):
        """carries no signature that would open this disk"""
        self.make_release("4.0", options=("--panics",), node_config=False)
        boots, entries = self.machine.boots(), self.machine.run("grep -r . /efi/loader/entries")
        self.begin_rollout("4.0")
        equal(self.failure("4.0", 120)["reason"], "VOLUME_WOULD_STAY_LOCKED")
        equal((self.machine.boots(), self.machine.run("grep -r . /efi/loader/entries")), (boots, entries))

    def good_again(self):
        """is good follows the bad ones"""
        self.make_release(GOOD)
        boots = self.machine.boots()
        self.begin_rollout(GOOD)
        self.machine.wait_for_boot(boots, 180)
        self.wait_for_verdict(GOOD, 60)
        wait_until(lambda: self.only_node()["state"] in ("blessed", "idle"), 60 * vm.patience(), "the end of the trial", pause=1)
        check_unlocked(self)

    # Orders.

    def ask(self, *verb):
        return json.loads(self.as_operator("node", *verb[:1], self.id, *verb[1:], "--reason", "recovery.py", "-o", "json"))["id"]

    def request(self, number):
        return json.loads(self.as_operator("request", "show", number, "-o", "json"))

    def approve(self, number):
        self.as_approver("request", "approve", number, "--yes")

    def wait_for_order(self, number, seconds):
        def ended():
            request = self.request(number)
            return request if request["state"] in ("done", "failed", "expired") else None

        request = wait_until(ended, seconds * vm.patience(), f"the end of order {number[:8]}", pause=1)
        equal(request["state"], "done")
        return request

    def raise_epoch(self):
        """two orders: recovery follows, then the epoch is raised; recovery boots once"""
        early = self.ask("raise-epoch", "--epoch", str(EPOCH))
        self.approve(early)
        request = wait_until(lambda: (lambda one: one if one["outcome"] else None)(self.request(early)), 60 * vm.patience(),
                             "the refusal of the early order", pause=1)
        equal((request["outcome"]["state"], request["outcome"]["reason"]), ("refused", "EPOCH_TOO_LOW"))
        for verb in (("upgrade", "--recovery"), ("raise-epoch", "--epoch", str(EPOCH))):
            order = self.ask(*verb)  # one at a time: each spends what the next one names
            self.approve(order)
            self.wait_for_order(order, 60)
        wait_until(lambda: (json.loads(self.as_operator("node", "show", self.id, "-o", "json"))["certified_epoch"] or {}).get("lowest") ==
                   EPOCH, 120 * vm.patience(), "the certified epoch", pause=1)

    def recovery_boot(self):
        """one boot of the recovery entry, then the usual one again"""
        entry = "tr -d '\\0' </sys/firmware/efi/efivars/LoaderEntrySelected-* | tail -c +2"  # of four bytes of attributes three are zeros
        usual = self.machine.run(entry)
        boots = self.machine.boots()
        self.machine.run("sealift-agent bootentry --select recovery && systemctl --no-block reboot")
        self.machine.wait_for_boot(boots, 120)
        equal(self.machine.run(entry), "recovery.conf")
        check_unlocked(self)
        self.machine.run("systemctl --no-block reboot")
        self.machine.wait_for_boot(boots + 1, 120)
        # That boot may have been the first one of a trial, with a counter.
        equal(self.machine.run(entry), re.sub(r"\+[0-9-]+", "", usual))

    def old_image(self):
        """an image of a lower epoch, signed and whole, put on the ESP as what boots"""
        node = self.twin("old-image")
        if "sealift" in run("mdir", "-b", "-i", esp_at(node.disk), "::/EFI").lower():
            run("mdel", "-i", esp_at(node.disk), f"::/{ORDER}")  # the reset's, which is for another case
        release = self.releases["1.0"]
        entry = self.folder / "active.conf"
        entry.write_text(disk.entry_text("active", "1.0", release.image_name()), encoding="ascii")
        run("mcopy", "-o", "-i", esp_at(node.disk), release.path(release.uki), f"::/{release.image_name()}")
        run("mcopy", "-o", "-i", esp_at(node.disk), entry, "::/loader/entries/active.conf")
        with vm.Machine(node) as machine:
            machine.wait_for_boot(0, 90)
            equal(machine.run(VERSION).strip(), "1.0")
            said = machine.run(UNLOCK_LOG)
            assert "EPOCH_TOO_LOW" in said, said
            equal(machine.run("ls /dev/mapper; findmnt -no SOURCE /oem; findmnt -no SOURCE /usr/local; true").split(), ["control"])
            machine.power_off()

    def stage_reset(self):
        """one person's request does nothing; two persons' order reaches the ESP, and there the power goes"""
        asked = self.ask("reset")
        double = self.work / "people/olga-approves"
        self.sealift("operator", "issue", "olga", "--role", "approver", "--keys", self.keys, *self.token_arguments("custody"),
                     "--controller", self.controller.addresses["fleet"], "-o", double)
        try:
            self.sealift("request", "approve", asked, "--yes", "--profile", double / "profile.toml")
        except LabError as error:
            assert "requester and approver are the same person" in str(error), error
        else:
            raise LabError("one person approved her own request under a second role")
        equal(self.request(asked)["state"], "open")
        # So that the order can be looked at where it lies.
        self.machine.run("mkdir -p /run/systemd/system; ln -s /dev/null /run/systemd/system/reboot.target; systemctl daemon-reload")
        self.approve(asked)
        wait_until(lambda: self.machine.run(f"test -s /efi/{ORDER} && echo there || true").strip(), 60 * vm.patience(), "the order on the ESP",
                   pause=1)
        self.machine.run("sync")
        self.machine.stop()
        self.machine = None
        run("mcopy", "-o", "-i", esp_at(self.node.disk), f"::/{ORDER}", self.folder / "order.dsse")
        self.asked = asked

    def boot_with_order(self, node, reason, opens, **options):
        """Boots with a reset order on the ESP that is not good for this machine, or not now: nothing is reset."""
        with vm.Machine(node, **options) as machine:
            machine.wait_for_boot(0, 120)
            said = machine.run(UNLOCK_LOG)
            assert reason in said, f"{reason} is not in:\n{said}"
            kept = machine.run("test -s /usr/local/.state/sealift/install.json -a -e /usr/local/mark && echo kept || true").strip()
            equal(kept, "kept" if opens else "")
            machine.power_off()

    def expired(self):
        """the clock is years ahead: the order's time is over, and the disk opens"""
        self.boot_with_order(self.twin("expired"), "ORDER_EXPIRED", True, clock="2034-05-06T07:08:09")

    def foreign(self):
        """the disk in a machine with another TPM"""
        node = self.twin("foreign")
        shutil.rmtree(node.tpm)
        self.vendor.manufacture(node.tpm)
        self.boot_with_order(node, "ORDER_FOREIGN", False)

    def dead_tpm(self):
        """the TPM is dead: recovery keys that two persons released open the disk"""
        carla = self.work / "people/carla"
        self.sealift("operator", "issue", "carla", "--role", "custodian", "--keys", self.keys, *self.token_arguments("custody"),
                     "--controller", self.controller.addresses["fleet"], "-o", carla)
        verb = ("node", "recovery-key", self.id, "--profile", carla / "profile.toml", "-o", "json")
        fetch = (*verb, "--keys", self.keys, *self.token_arguments("custody"))
        asked = json.loads(self.sealift(*verb, "--reason", "TPM is dead"))["id"]
        try:
            self.sealift(*fetch)
        except LabError as error:
            assert "REQUEST_STATE_WRONG" in str(error), error
        else:
            raise LabError("a recovery key was shown that nobody approved")
        self.approve(asked)
        keys = json.loads(self.sealift(*fetch))["keys"]
        equal(sorted({key["volume"] for key in keys}), ["data", "oem", "persistent"])
        with vm.Machine(self.twin("dead-tpm"), tpm=False) as machine:
            machine.wait_for_boot(0, 120)
            equal(machine.run("ls /dev/mapper").split(), ["control"])
            given = "".join(f"{key['key']}\n" for key in keys)
            machine.run(f"sealift-agent unlock-all --recovery-key <<'END'\n{given}END\n", timeout=60)
            equal(machine.run("findmnt -no SOURCE /oem; findmnt -no SOURCE /usr/local").split(), ["/dev/mapper/oem", "/dev/mapper/persistent"])
            equal(machine.run("cat /usr/local/mark; ls /dev/mapper").split(), ["control", "data", "oem", "persistent"])
            machine.power_off()

    def reset(self):
        """the next boot makes persistent anew, with another key; the machine enrols again as what it was"""
        old = {volume["name"]: volume["luks_uuid"] for volume in json.loads(
            self.as_operator("node", "show", self.id, "-o", "json"))["volumes"]}
        self.start_machine()
        self.wait_for_order(self.asked, 120)
        check_unlocked(self)
        equal(self.machine.run("ls /usr/local/mark /usr/local/.state/opt.bind/motd 2>/dev/null || true"), "")
        equal(self.machine.run("cat /oem/opt.bind/motd"), "from the medium\n")
        equal(self.wait_for_verdict(GOOD, 60)["id"], self.id)
        new = wait_until(lambda: {volume["name"]: volume["luks_uuid"] for volume in json.loads(
            self.as_operator("node", "show", self.id, "-o", "json"))["volumes"]}, 60 * vm.patience(), "its volumes", pause=1)
        equal(new["oem"], old["oem"])
        assert new["persistent"] != old["persistent"], new

    def replayed(self):
        """the order that was obeyed, put back"""
        self.machine.run("echo mark >/usr/local/mark; sync")
        self.machine.power_off()
        self.machine = None
        node = self.twin("replayed")
        if "sealift" not in run("mdir", "-b", "-i", esp_at(node.disk), "::/EFI").lower():
            run("mmd", "-i", esp_at(node.disk), "::/EFI/sealift")
        run("mcopy", "-o", "-i", esp_at(node.disk), self.folder / "order.dsse", f"::/{ORDER}")
        with vm.Machine(node) as machine:
            machine.wait_for_boot(0, 120)
            said = machine.run(UNLOCK_LOG)
            assert "ORDER_REPLAYED" in said, said
            equal(machine.run("cat /usr/local/mark"), "mark\n")
            machine.power_off()


def tell(story, checks, only):
    def check(what, *cases):
        for case in cases:
            if not only or case.__name__ in only:
                checks.check(f"{what}: {case.__doc__}", case)

    story.begin()
    check("a release that", story.stays_locked, story.unhealthy, story.hangs, story.good_again)
    for case in (story.raise_epoch, story.recovery_boot):
        check("orders and entries", case)
    story.machine.run("touch /usr/local/mark; sync")
    check("a reset order", story.stage_reset)
    if story.machine is not None:
        story.machine.power_off()
        story.machine = None
    check("an old release", story.old_image)
    check("a reset order that is no longer or not here", story.expired, story.foreign)
    check("the disk", story.dead_tpm)
    check("the reset order", story.reset, story.replayed)


def main():
    parser = argparse.ArgumentParser(description="Recovery of an installed machine, and orders.")
    parser.add_argument("--from", dest="origin", default=ROOT / "build/e2e-install", help="the work folder of install.py")
    parser.add_argument("--build", default=ROOT / "build/release")
    parser.add_argument("--results", default=None)
    parser.add_argument("--only", nargs="*", default=(), help="cases by name, for example unhealthy; they may need those before them")
    options = parser.parse_args()
    end_on_signals()
    story = Recovery(options.origin, options.build)
    try:
        return conclude(lambda checks: tell(story, checks, options.only), options.results)
    finally:
        story.close()


if __name__ == "__main__":
    sys.exit(main())
