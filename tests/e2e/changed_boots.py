"""An enrolled machine that boots something else than it should: what the controller says of it, register by register.

A twin of the machine, so that its TPM goes on in one line; the same ESP, firmware and keys, with one thing changed at a
time. Everything the machine sends is also looked at with the TPM's own tools.
"""
import base64
import json
import pathlib
import shutil
import sys

import extensions
from checks import equal

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "deploy/lab"))
import disk  # noqa: E402
import vm  # noqa: E402
from processes import LabError, run, wait_until  # noqa: E402

LOG = "/sys/kernel/security/tpm0/binary_bios_measurements"
VERSION = "2.0"


class ChangedBoots:
    """Needs the controller of a story whose machine, trusted on 2.0, is off."""

    def __init__(self, story, checks, unwelcome):
        """`unwelcome`: makes extensions that 2.0 does not list, name -> file."""
        self.story, self.check, self.unwelcome = story, checks.check, unwelcome
        self.work = story.work / "changed-boots"

    def run(self, enrolled):
        self.work.mkdir()
        self.node = enrolled.copy(self.work / "node")
        self.good = self.story.releases[VERSION]
        self.image = self.good.path(self.good.uki).read_bytes()
        self.check("one changed kernel argument, signed like any image: untrusted by PCR 4 and 11, and why", self.changed_argument)
        self.check("extensions put beside the image by force: refused, and untrusted by PCR 13, and why", self.extra_extensions)
        self.check("Secure Boot off: untrusted by PCR 7, and why", self.secure_boot_off)

    def changed_argument(self):
        out = self.work / "release"
        given = self.story.work / "upgraded/greeting.raw"
        changed = self.story.build_uki(self.story.work / f"rootfs-{VERSION}", out, "--node-config", self.story.work / "node.toml",
                                       "--cmdline", "console=tty1 console=ttyS0 panic=5 systemd.crash_reboot=yes audit=0", "--extension", given)
        equal(changed.version, VERSION)
        disk.esp_put(self.node.disk, changed.path(changed.uki).read_bytes(), self.good.image_name())
        verdict, words = self.boot()
        disk.esp_put(self.node.disk, self.image, self.good.image_name())
        equal(self.mismatches(verdict), [4, 11])
        assert "section .cmdline" in words[11] and self.good.uki["path"].rsplit("/", 1)[-1] in words[4], words
        assert "EVENT_NOT_ALLOWED" in verdict["reasons"], verdict["reasons"]

    def extra_extensions(self):
        places = {f"{self.good.image_name()}.extra.d/{name}": image for name, image in self.unwelcome().items()}
        for place, image in places.items():
            disk.esp_put(self.node.disk, image.read_bytes(), place)
        reasons = {name.rsplit("/", 1)[-1]: "EXTENSION_NOT_LISTED" for name in places}
        verdict, words = self.boot(look=lambda machine: extensions.refused(machine, reasons))
        for place in places:
            disk.esp_remove(self.node.disk, place)
        equal(self.mismatches(verdict), [13])
        assert "extension" in words[13], words

    def secure_boot_off(self):
        shutil.copy(vm.EMPTY_VARIABLES, self.node.variables)
        for path in disk.esp_list(self.node.disk, "loader/keys/auto"):
            disk.esp_remove(self.node.disk, f"loader/keys/auto/{path}")
        verdict, words = self.boot(off=True)
        assert 7 in self.mismatches(verdict) and 11 not in self.mismatches(verdict), verdict
        assert "SecureBoot" in words[7], words

    # How.

    def boot(self, off=False, look=lambda machine: None):
        """Boots the twin; returns the verdict over that boot, and what `attest explain` says, register -> sentence.
        `look` is given the machine while it runs."""
        with vm.Machine(self.node, forwards=self.story.controller.forwards()) as machine:
            machine.wait_for_boot(0, 300 if off else 60)  # firmware without variables writes them all first
            boot = machine.run("cat /proc/sys/kernel/random/boot_id").strip()
            look(machine)

            def judged():
                shown = json.loads(self.story.as_operator("attest", "show", self.story.only_node()["id"], "-o", "json"))
                return next((one for one in shown["verdicts"] if one["boot_id"] == boot), None)

            verdict = wait_until(judged, 60 * vm.patience(), "a verdict over this boot", pause=0.5)
            log = base64.b64decode(machine.run(f"base64 -w0 {LOG}"))
            machine.power_off()
        equal(verdict["outcome"], "untrusted")
        explained = json.loads(self.story.as_operator("attest", "explain", self.story.only_node()["id"], "-o", "json"))
        words = {finding["pcr"]: next(one for one in explained["sentences"] if one.startswith(f"PCR {finding['pcr']} "))
                 for finding in verdict["findings"]}
        self.evidence(log)
        return verdict, words

    @staticmethod
    def mismatches(verdict):
        return [finding["pcr"] for finding in verdict["findings"] if finding["outcome"] == "mismatch"]

    def evidence(self, log):
        """The newest evidence holds when judged again, and the TPM's own tools see in it what ours see."""
        path = self.work / "evidence.json"
        self.story.as_operator("attest", "show", self.story.only_node()["id"], "--evidence", path)
        self.story.sealift("attest", "verify", path)
        found = json.loads(path.read_text(encoding="utf-8"))
        parts = {name: self.work / name for name in ("attest", "signature", "ak_public", "event_log")}
        for name, part in parts.items():
            part.write_bytes(base64.b64decode(found[name]))
        equal(parts["event_log"].read_bytes(), log)
        quote = ["tpm2_checkquote", "-u", parts["ak_public"], "-m", parts["attest"], "-s", parts["signature"], "-g", "sha256", "-q"]
        run(*quote, found["nonce"])
        try:
            run(*quote, found["nonce"][:-2] + ("00" if found["nonce"][-2:] != "00" else "01"))
        except LabError:
            pass
        else:
            raise LabError("tpm2_checkquote accepts another nonce")
        ours = json.loads(self.story.sealift("inspect", "event-log", parts["event_log"], "-o", "json"))
        theirs = replayed(run("tpm2_eventlog", parts["event_log"]))
        registers = {int(pcr): value for pcr, value in ours["pcrs"]["sha256"].items()}
        equal(registers, theirs)
        for index in (4, 7):
            equal(registers[index], found["pcrs"]["sha256"][str(index)])


def replayed(printed):
    """The SHA-256 registers that tpm2_eventlog says a log leads to."""
    values, bank = {}, None
    for line in printed.splitlines():
        field = line.strip()
        if line.startswith("pcrs:"):
            values.clear()
        if field.endswith(":") and not field[:-1].isdigit():
            bank = field[:-1]
        name, _, value = field.partition(":")
        if bank == "sha256" and name.strip().isdigit() and value:
            values[int(name)] = value.strip().removeprefix("0x").lower()
    return values
