#!/usr/bin/python3
"""The VM story: what deploy/demo.sh tells, with everything checked on the way, and firmware given bad images.

    vm_story.py [--build DIR] [--work DIR] [--results FILE]

Other people's tools judge what we made: systemd-measure, sbverify, osslsigncode, tpm2_eventlog, the firmware.
Exit code 0 only if every check passed.
"""
import json
import os
import pathlib
import re
import sys
import tempfile
import time

import pefile

import bad_images
import booted_tree
from changed_boots import ChangedBoots
from checks import equal, main
from extensions import Extensions, build_extension
from firmware_updates import FirmwareUpdates

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/lab"))
import disk  # noqa: E402
import story as main_story  # noqa: E402
import vm  # noqa: E402
from processes import run, say, wait_until  # noqa: E402

OPTIONS = "probe.option=1 words=two"  # what an entry asks for, and a signed image must ignore


class CheckedStory(main_story.Story):
    """The demo's story, except that nobody admits the machine before it asks, and that 2.0 brings an extension."""

    moment = str(int(time.time()))

    def release_options(self, version):
        if version != "2.0":
            return ()
        return "--extension", build_extension(self, self.work / "upgraded", "greeting", "1.0", "hello from the upgrade")

    def build_uki(self, tree, out, *arguments):
        if not os.environ.get("SEALIFT_CHANGED_BOOTS"):
            return super().build_uki(tree, out, *arguments)
        # All of one moment, so that images differ in what they were told to differ in.
        os.environ["SOURCE_DATE_EPOCH"] = self.moment
        try:
            return super().build_uki(tree, out, *arguments)
        finally:
            del os.environ["SOURCE_DATE_EPOCH"]

    def chapters(self):
        order = super().chapters()
        order.remove(self.admit_node)
        order.insert(order.index(self.first_boot) + 1, self.admit_node)
        return order


class VmStory:
    """The checks that follow each chapter of a Story."""

    def __init__(self, story, checks):
        self.story, self.check, self.checks = story, checks.check, checks

    def after(self, chapter):
        follow = getattr(self, f"after_{chapter}", None)
        if follow is not None:
            follow()

    # Each method is called after the chapter it is named for.

    def after_build_first_release(self):
        release = self.story.releases["1.0"]
        for entry in (release.boot_loader, release.uki):
            self.check(f"sbverify and osslsigncode accept {entry['path']}", lambda entry=entry: self.verify_signature(release.path(entry)))
        for prediction in release.manifest["pcr11"]:
            self.check(f"systemd-measure calculates our PCR 11 for phase '{prediction['phase']}'",
                       lambda prediction=prediction: equal(self.systemd_measure(release, prediction["phase"]), prediction["pcr11"]))

    def after_first_boot(self):
        story = self.story
        self.check("inside the guest: SecureBoot=1, SetupMode=0", lambda: equal(
            (story.efi_variable("SecureBoot")[4:], story.efi_variable("SetupMode")[4:]), (b"\1", b"\0")))
        self.check("the firmware's PK, KEK and db are ours to the byte", self.enrolled_lists)
        self.registers("1.0")
        self.check("tpm2_eventlog replays to the real PCR 4 and 7", self.event_log)
        self.check("/efi, /usr/local and /oem are mounted as the contract says", self.mounts)
        self.check("the tree in memory is the one the image was built from, file by file",
                   lambda: booted_tree.compare(story.machine, story.work / "rootfs-1.0", 120))
        self.check("a machine that nobody admitted is pending, and told so", self.pending)

    def after_roll_out(self):
        story = self.story
        self.check("the guest runs 2.0", lambda: equal(story.machine.run(". /etc/os-release; echo $VERSION_ID").strip(), "2.0"))
        self.check("Secure Boot is still on", lambda: equal(story.secure_boot(), "on"))
        self.registers("2.0")
        self.check("active is the new image without a counter, passive the old one", self.roles_after_upgrade)
        self.check("the extension of 2.0 came with the upgrade and is laid over /usr", self.extension_after_upgrade)
        self.check("no unit failed", lambda: equal(story.machine.run("systemctl --failed --no-legend --plain"), ""))

    def broken_release(self):
        """A release that panics: the boot loader goes back by itself, the agent says why, and the wave stops."""
        story, machine = self.story, self.story.machine
        story.build_rootfs(story.work / "rootfs-3.0", "--version", "3.0", "--panics")
        broken = story.releases["3.0"] = story.build_uki(story.work / "rootfs-3.0", story.work / "release-3.0")
        story.publish("3.0", *main_story.NO_DELTAS)
        boots, said = machine.boots(), machine.serial.end()
        rollout = json.loads(story.as_operator("rollout", "create", "--channel", main_story.CHANNEL, "--release", "3.0",
                                               "--waves", "100%", "-o", "json"))["id"]
        machine.wait_for_boot(boots, 240)
        self.check("3.0 was tried three times before the boot loader went back",
                   lambda: equal(len(re.findall("(?<!end )Kernel panic - not syncing", machine.serial.text(said))), 3))
        self.check("the guest runs 2.0 again", lambda: equal(machine.run(". /etc/os-release; echo $VERSION_ID").strip(), "2.0"))
        self.check("the rollout of 3.0 halts, with the node's reason", lambda: self.halted(rollout))
        self.check("the node is trusted on 2.0 and remembers that 3.0 failed", self.fell_back)
        self.check("the image of 2.0 is still the one that boots", lambda: self.boots_again(broken))

    def halted(self, rollout):
        def shown():
            found = json.loads(self.story.as_operator("rollout", "status", rollout, "-o", "json"))
            return found if found["state"] != "running" else None

        found = wait_until(shown, 60 * vm.patience(), "the rollout halting", pause=0.5)
        equal(found["state"], "halted")
        assert "FELL_BACK" in found["halted_reason"], found["halted_reason"]

    def fell_back(self):
        self.story.wait_for_verdict("2.0", 30)
        node = self.story.only_node()
        equal([(failure["version"], failure["reason"]) for failure in node["failures"]], [("3.0", "FELL_BACK")])

    def boots_again(self, broken):
        """Whatever entries there are: those that may still be tried lead to 2.0."""
        machine, good = self.story.machine, "/" + self.story.releases["2.0"].image_name()
        leads = {}
        for name in machine.run("ls /efi/loader/entries").split():
            entry = dict(line.split(None, 1) for line in machine.run(f"cat /efi/loader/entries/{name}").splitlines())
            leads[name] = entry["efi"]
        assert good in leads.values(), leads
        assert all("+0" in name for name, image in leads.items() if image == "/" + broken.image_name()), leads

    def pending(self):
        story = self.story

        def asked():
            node = story.only_node()
            return node if node and node["admission"] == "pending" else None

        node = wait_until(asked, 30 * vm.patience(), "the machine asking to be let in", pause=0.5)
        equal((node["ek_digest"], node["certificate_not_after"], node["desired"]), (story.node.ek_digest(), "never", None))
        status = json.loads(story.machine.run("sealift-agent status -o json"))
        equal(status["enrolment"], "pending")

    def registers(self, version):
        story, release = self.story, self.story.releases[version]
        expected = self.predictions(release)
        for index in (4, 7, 11, 12, 13):
            self.check(f"{version}: real PCR {index} equals the prediction", lambda index=index: equal(story.pcr(index), expected[index]))
        self.check(f"{version}: PCR 11 is the one of the final phase", lambda: equal(story.pcr(11), release.manifest["pcr11"][-1]["pcr11"]))

    # How.

    def predictions(self, release, *options):
        """What the product's own code predicts from the release and the key set: PCR number -> hex."""
        predicted = json.loads(run(self.story.programs / "e2e_predict", release.tree, self.story.keys, *options))
        return {int(index): value for index, value in predicted.items()}

    def verify_signature(self, path):
        certificate = self.story.keys / "db.pem"
        run("sbverify", "--cert", certificate, path)
        run("osslsigncode", "verify", "-CAfile", certificate, "-in", path)

    def systemd_measure(self, release, phase):
        with tempfile.TemporaryDirectory() as folder:
            arguments = []
            with pefile.PE(release.path(release.uki), fast_load=True) as image:
                for section in image.sections:
                    name = section.Name.rstrip(b"\0").decode()
                    if name in (".linux", ".osrel", ".cmdline", ".initrd", ".pcrpkey"):
                        copy = pathlib.Path(folder) / name
                        copy.write_bytes(section.get_data(length=section.Misc_VirtualSize))
                        arguments.append(f"-{name.replace('.', '-')}={copy}")
            printed = run("/lib/systemd/systemd-measure", "calculate", "--bank=sha256", f"--phase={phase}", *arguments)
        return printed.strip().rpartition("=")[2]

    def enrolled_lists(self):
        for name in ("PK", "KEK", "db"):
            enrolled, ours = self.story.efi_variable(name)[4:], (self.story.keys / f"{name}.esl").read_bytes()
            assert enrolled == ours, f"{name}: {len(enrolled)} bytes in the firmware, {len(ours)} bytes in {name}.esl"

    def event_log(self):
        printed = self.story.machine.run("tpm2_eventlog /sys/kernel/security/tpm0/binary_bios_measurements 2>/dev/null")
        replayed = {}
        in_bank = False
        for line in printed.splitlines():
            if line.startswith("pcrs:"):
                replayed.clear()
            if line.strip().endswith(":") and not line.strip()[:-1].isdigit():
                in_bank = line.strip() == "sha256:"
            fields = line.split(":")
            if in_bank and len(fields) == 2 and fields[0].strip().isdigit():
                replayed[int(fields[0])] = fields[1].strip().removeprefix("0x")
        for index in (4, 7):
            equal(replayed.get(index), self.story.pcr(index))

    def roles_after_upgrade(self):
        machine = self.story.machine

        def blessed():  # the agent does it once its report was accepted
            return set(machine.run("ls /efi/loader/entries").split()) == {"active.conf", "passive.conf"}

        wait_until(blessed, 20 * vm.patience(), "entries active.conf and passive.conf, and no other", pause=0.5)
        for role, version in (("active", "2.0"), ("passive", "1.0")):
            entry = dict(line.split(None, 1) for line in machine.run(f"cat /efi/loader/entries/{role}.conf").splitlines())
            equal(entry["efi"], "/" + self.story.releases[version].image_name())

    def extension_after_upgrade(self):
        machine, image = self.story.machine, self.story.releases["2.0"].image_name()
        equal(machine.run("greeting").strip(), "hello from the upgrade")
        equal(machine.run(f"ls /efi/{image}.extra.d").split(), ["greeting.raw"])
        assert int(self.story.pcr(13), 16) != 0, "PCR 13 holds nothing"
        self.mounts()  # the overlay hides none of them

    def mounts(self):
        for path, kind in (("/efi", "vfat"), ("/usr/local", "ext4"), ("/oem", "ext4")):
            found, options = self.story.machine.run(f"findmnt -rno FSTYPE,OPTIONS {path}").split()
            equal(found, kind)
            assert {"nosuid", "nodev"} <= set(options.split(",")), f"{path}: {options}"

    # The probe: a tiny image made and signed like a real one, on machines whose firmware has our keys.

    def probe_story(self, enrolled):
        """`enrolled`: a node in the state after the first boot, switched off."""
        story = self.story
        story.build_rootfs(story.work / "rootfs-probe", "--version", "1.0", "--probe")
        release = story.build_uki(story.work / "rootfs-probe", story.work / "release-probe")
        good = release.path(release.uki).read_bytes()
        self.check("an entry with options: PCR 12 as predicted, the options are ignored", lambda: self.boot_with_options(enrolled, release, good))
        for name, image in (("unsigned", bad_images.unsigned(good)), ("tampered", bad_images.tampered(good)),
                            ("wrong-key", bad_images.wrong_key(good)), ("truncated", bad_images.truncated(good))):
            self.check(f"firmware refuses what is {name}", lambda name=name, image=image: self.refused(enrolled, release, name, image))

    def probe_machine(self, enrolled, release, name, image, options=None, tpm=False):
        node = enrolled.copy(self.story.work / f"node-{name}", disk=False)
        with tempfile.TemporaryDirectory() as tree:
            disk.installed_tree(release, tree)
            disk.make_disk(node.disk, tree)
        disk.esp_put(node.disk, image, release.image_name())
        disk.esp_put(node.disk, disk.entry_text("active", release.version, release.image_name(), options), "loader/entries/active.conf")
        return vm.Machine(node, tpm=tpm, memory=512, cpus=1)

    def boot_with_options(self, enrolled, release, image):
        with self.probe_machine(enrolled, release, "options", image, OPTIONS, tpm=True) as machine:
            machine.serial.wait("probe: done", 30 * vm.patience())
            printed = machine.serial.text()
        pcrs = dict(line.split()[2:4] for line in printed.splitlines() if line.startswith("probe: PCR"))
        expected = self.predictions(release, OPTIONS)
        for index in (4, 7, 12, 13):
            equal((index, pcrs[str(index)]), (index, expected[index]))
        equal(pcrs["11"], next(entry["pcr11"] for entry in release.manifest["pcr11"] if entry["phase"] == ""))
        assert OPTIONS not in next(line for line in printed.splitlines() if line.startswith("probe: cmdline")), "the options were obeyed"

    def refused(self, enrolled, release, name, image):
        with self.probe_machine(enrolled, release, name, image) as machine:
            machine.serial.wait("Error loading .*(Access Denied|Security Violation)", 30 * vm.patience(),
                                unless="Linux version|probe:")


def tell(story, checks):
    told = VmStory(story, checks)
    story.tell(after=told.after)
    say("a release that does not stay up is rolled out")
    told.broken_release()
    say("the firmware is given updates of its keys")
    updates = FirmwareUpdates(story, checks)
    updates.run()
    say("the machine is switched off; copies of it get images by force")
    story.machine.power_off()
    updates.put_back()
    told.probe_story(story.node)
    say("system extensions beside an image")
    extensions = Extensions(story, checks, told.predictions)
    extensions.run(story.node)
    if os.environ.get("SEALIFT_CHANGED_BOOTS"):
        say("the machine boots something else than it should")
        ChangedBoots(story, checks, lambda: extensions.strangers).run(story.node)


if __name__ == "__main__":
    sys.exit(main("The VM story, checked.", "build/e2e", CheckedStory, tell))
