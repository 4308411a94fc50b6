#!/usr/bin/python3
"""Lab nodes: virtual machines with OVMF Secure Boot firmware and a software TPM that has an EK certificate.

    vm.py run NODE 'shell command'    runs it as root inside a running node
    vm.py serial NODE                 prints what the node's serial port said
    vm.py stop NODE                   ends the node's processes

A Node is a folder with what a machine keeps when it is off: disk.img, vars.fd (firmware variables), tpm/. A
Machine is a node that is switched on. The network of a machine reaches the ports it was given on this machine's
loopback, as 10.0.2.100:PORT, and nothing else.
"""
import base64
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import sys
import tempfile
import threading
import time

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from processes import LabError, Process, run, say, tail, wait_until

FIRMWARE = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
EMPTY_VARIABLES = "/usr/share/OVMF/OVMF_VARS_4M.fd"  # no PK: setup mode
CONTROLLER_ADDRESS = "10.0.2.100"
_PORT_NAME = "org.sealift.lab"


def patience():
    """Factor on every time limit. The limits suit two idle cores; emulation on a busy machine is several times slower."""
    return float(os.environ.get("SEALIFT_LAB_PATIENCE", "4"))


def free_port():
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class TpmVendor:
    """A certificate authority for EK certificates, as a TPM maker has one. Lives in its own folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        ca = self.folder / "ca"
        (self.folder / "localca.conf").write_text(
            f"statedir = {ca}\nsigningkey = {ca}/signkey.pem\nissuercert = {ca}/issuercert.pem\ncertserial = {ca}/certserial\n",
            encoding="ascii")
        (self.folder / "localca.options").write_text(
            "--tpm-manufacturer id:00001014\n--tpm-model swtpm\n--tpm-version 2\n"
            "--platform-manufacturer Sealift\n--platform-version 1\n--platform-model Lab\n", encoding="ascii")
        (self.folder / "setup.conf").write_text(
            f"create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {self.folder}/localca.conf\n"
            f"create_certs_tool_options = {self.folder}/localca.options\nactive_pcr_banks = sha256\n", encoding="ascii")
        ca.mkdir(exist_ok=True)

    def manufacture(self, state):
        """Makes a TPM with RSA and ECC endorsement keys and their certificates in the folder `state`, and puts
        copies of the certificates beside it, as a vendor's delivery note would."""
        state = pathlib.Path(state).absolute()
        state.mkdir(parents=True, exist_ok=True)
        certificates = state.with_name("ek-certificates")
        certificates.mkdir(exist_ok=True)
        run("swtpm_setup", "--tpm2", "--tpm-state", state, "--config", self.folder / "setup.conf", "--create-ek-cert",
            "--create-platform-cert", "--vmid", "lab-node", "--lock-nvram", "--overwrite", "--pcr-banks", "sha256",
            "--write-ek-cert-files", certificates, "--runas",
            "root" if os.geteuid() == 0 else str(os.geteuid()), "--logfile", state / "setup.log", timeout=60 * patience())

    def publish_certificates(self, folder):
        """Puts the root and the issuing certificate into a folder, from where a controller takes the CAs it accepts."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("swtpm-localca-rootca-cert.pem", "issuercert.pem"):
            shutil.copy(self.folder / "ca" / name, folder / name)


def best_accelerator(cache):
    """"kvm" where the firmware really starts under it, else "tcg". Probed once per boot of this machine."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot_id = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    memo = pathlib.Path(cache) / f"accelerator-{boot_id}"
    if memo.exists():
        return memo.read_text(encoding="ascii")
    say("trying KVM (once)")
    found = "tcg"
    with tempfile.TemporaryDirectory() as folder:
        node = Node(folder)
        shutil.copy(EMPTY_VARIABLES, node.variables)
        node.disk.write_bytes(b"\0" * (1 << 20))
        machine = Machine(node, accelerator="kvm", tpm=False, memory=256, cpus=1)
        try:
            machine.start()
            machine.serial.wait("BdsDxe", 8)
            found = "kvm"
        except LabError:
            pass  # the answer of the probe
        finally:
            machine.stop()
    memo.parent.mkdir(parents=True, exist_ok=True)
    memo.write_text(found, encoding="ascii")
    return found


class Node:
    """What a machine keeps when it is off. Copy it only then."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.disk = self.folder / "disk.img"
        self.variables = self.folder / "vars.fd"
        self.tpm = self.folder / "tpm"

    @classmethod
    def new(cls, folder, vendor=None):
        """A machine fresh from the factory: firmware in setup mode and, with a vendor, a TPM. The disk is the caller's."""
        shutil.rmtree(folder, ignore_errors=True)
        node = cls(folder)
        shutil.copy(EMPTY_VARIABLES, node.variables)
        if vendor is not None:
            vendor.manufacture(node.tpm)
        return node

    def ek_digest(self):
        """SHA-256 of the RSA endorsement key's SubjectPublicKeyInfo, in hex: how a controller knows the TPM."""
        certificate = x509.load_der_x509_certificate((self.folder / "ek-certificates/ek-rsa2048.crt").read_bytes())
        return hashlib.sha256(certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).hexdigest()

    def copy(self, folder, disk=True):
        """A second machine in the same state."""
        shutil.rmtree(folder, ignore_errors=True)
        twin = Node(folder)
        shutil.copy(self.variables, twin.variables)
        if self.tpm.exists():
            shutil.copytree(self.tpm, twin.tpm)
        if disk:
            run("cp", "--sparse=always", "--reflink=auto", self.disk, twin.disk)
        return twin


class Serial:
    """The log that a machine's serial port writes. Positions are byte offsets into it."""

    def __init__(self, path, alive):
        self.path, self._alive = pathlib.Path(path), alive

    def end(self):
        return self.path.stat().st_size if self.path.exists() else 0

    def text(self, since=0):
        if not self.path.exists():
            return ""
        with open(self.path, "rb") as file:
            file.seek(since)
            raw = file.read().decode("utf-8", "replace")
        raw = re.sub(r"\x1b\[[0-9;?=]*[A-Za-z]|\x1b[()][A-Z0-9]", "", raw).replace("\r", "")
        return "".join(char for char in raw if char in "\n\t" or ord(char) >= 32)

    def wait(self, pattern, timeout, since=0, unless=None):
        """The match of a pattern in what came after `since`. LabError after `timeout` seconds, or when `unless`
        matches, or when the machine ends first."""
        deadline = time.monotonic() + timeout
        while True:
            alive = self._alive()
            text = self.text(since)
            match = re.search(pattern, text)
            if match:
                return match
            excuse = None
            if unless and re.search(unless, text):
                excuse = f"saw {unless!r} instead"
            elif not alive:
                excuse = "the machine ended"
            elif time.monotonic() > deadline:
                excuse = f"not within {timeout:.0f} s"
            if excuse:
                raise LabError(f"waiting for {pattern!r} on the serial port: {excuse}. Its end:\n" +
                               "\n".join(text.splitlines()[-25:]))
            time.sleep(0.05)


class GuestChannel:
    """The host's end of the lab driver (see driver/). One command at a time."""

    def __init__(self, path, alive):
        self._socket = socket.socket(socket.AF_UNIX)

        def connected():
            try:
                self._socket.connect(str(path))
            except (ConnectionRefusedError, FileNotFoundError):
                return False
            return True

        wait_until(lambda: connected() or not alive(), 10 * patience(), f"connecting to {path}")
        if not alive():
            raise LabError("the machine ended at once")
        self._lines, self._hellos, self._ended = [], 0, False
        self._changed = threading.Condition()
        self._next = int(time.time() * 1000) % 1_000_000_000
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self):
        try:
            with self._socket.makefile("rb") as stream:
                for line in stream:
                    with self._changed:
                        if line.startswith(b"hello"):
                            self._hellos += 1
                        else:
                            self._lines.append(line.decode("ascii", "replace").split())
                        self._changed.notify_all()
        except ConnectionResetError:
            pass  # How a machine that was ended hangs up; the waiters learn it below.
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def hellos(self):
        """How often a driver has greeted: once a boot."""
        with self._changed:
            return self._hellos

    def wait_for_boot(self, after, timeout):
        """Waits until the guest has greeted more than `after` times."""
        with self._changed:
            self._changed.wait_for(lambda: self._hellos > after or self._ended, timeout)
            if self._hellos <= after:
                raise LabError("the guest's driver: " + ("the machine ended" if self._ended else f"silent for {timeout:.0f} s"))

    def send(self, script, limit=60):
        """Sends a script and does not wait. Returns what fetch() takes."""
        self._next += 1
        encoded = base64.b64encode(script.encode()).decode()
        self._socket.sendall(f"{self._next} {limit} {encoded}\n".encode())
        return self._next

    def run(self, script, timeout=60, check=True):
        """Runs a bash script in the guest; returns (exit code, output). LabError when it fails and `check`."""
        number = str(self.send(script, int(timeout)))
        found = []

        def answered():
            found[:] = [line for line in self._lines if line and line[0] == number]
            return found or self._ended

        with self._changed:
            self._changed.wait_for(answered, timeout + 10)
            if not found:
                raise LabError(f"the guest did not answer to: {script}")
            self._lines.remove(found[0])
        status = int(found[0][1])
        output = base64.b64decode(found[0][2] if len(found[0]) > 2 else "").decode("utf-8", "replace")
        if check and status != 0:
            raise LabError(f"in the guest, exit code {status}: {script}\n{output}")
        return status, output

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Machine:
    """A node that is switched on. Use as a context manager, or call stop(). Not thread-safe.

    forwards: guest port of 10.0.2.100 -> port of this machine's loopback. keep: it outlives this program.
    cd: an ISO in its CD drive, tried before the disk: after a failed try PCR 4 is another.
    write_log: a file that takes every write and flush of the disk (QEMU's blklogwrites; tests/e2e/write_log.py).
    clock: what its clock says when it is switched on, as "2001-02-03T04:05:06"; else the right time.
    """

    def __init__(self, node, accelerator="tcg", forwards=None, tpm=True, memory=1024, cpus=None, keep=False, cd=None, write_log=None,
                 clock=None):
        self.node, self.accelerator, self.forwards, self.cd = node, accelerator, forwards or {}, cd
        self.write_log, self.clock = write_log, clock
        self.has_tpm, self.memory, self.keep = tpm, memory, keep
        # Emulated processors that wait for each other come to nothing where the host is busy with other things.
        self.cpus = cpus or int(os.environ.get("SEALIFT_LAB_CPUS", "2"))
        self.processes, self.guest = [], None
        self.serial = Serial(node.folder / "serial.log", lambda: self.processes and self.processes[-1].alive())
        self.runtime = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        if not self.keep:
            self.stop()

    def start(self):
        """Powers on. Returns when the processes run, long before the guest does."""
        self.runtime = pathlib.Path(tempfile.mkdtemp(prefix="sealift-lab-"))  # socket paths are limited to 107 bytes
        log = self.node.folder / "host.log"
        self.serial.path.unlink(missing_ok=True)
        if self.has_tpm:
            socket_path = self.runtime / "tpm"
            self.processes.append(Process.start(
                "swtpm", ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.node.tpm}", "--ctrl",
                          f"type=unixio,path={socket_path}", "--terminate", "--log", f"file={self.node.folder}/tpm.log,level=1"],
                log, self.keep))
            self._wait_for_socket(socket_path, log)
        self.processes.append(Process.start("qemu", self._qemu_command(), log, self.keep))
        self._wait_for_socket(self.runtime / "lab", log)
        (self.node.folder / "run.json").write_text(json.dumps({
            "runtime": str(self.runtime), "processes": [process.to_json() for process in self.processes]}), encoding="utf-8")
        self.guest = GuestChannel(self.runtime / "lab", self.processes[-1].alive)

    def _wait_for_socket(self, path, log):
        try:
            wait_until(lambda: path.exists() or not self.processes[-1].alive(), 10 * patience(), f"{path} appearing")
        finally:
            if not path.exists():
                print(tail(log), file=sys.stderr)
        if not path.exists():
            raise LabError(f"{self.processes[-1].name} ended at once")

    def _qemu_command(self):
        acceleration = ["-accel", "kvm", "-cpu", "host"] if self.accelerator == "kvm" else ["-accel", "tcg,thread=multi", "-cpu", "max"]
        command = [
            "qemu-system-x86_64", *acceleration, "-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on",
            "-m", self.memory, "-smp", self.cpus, "-nodefaults", "-display", "none", "-boot", "menu=off,splash-time=0",
            "-drive", f"if=pflash,format=raw,unit=0,file={FIRMWARE},readonly=on",
            "-drive", f"if=pflash,format=raw,unit=1,file={self.node.variables}",
            *self._disk_options(),
            "-device", "virtio-blk-pci,drive=disk,bootindex=1,serial=disk",
            "-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random",
            "-chardev", f"file,id=serial,path={self.serial.path}", "-serial", "chardev:serial",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=lab,path={self.runtime}/lab,server=on,wait=off",
            "-device", f"virtserialport,chardev=lab,name={_PORT_NAME}",
            "-qmp", f"unix:{self.runtime}/qmp,server=on,wait=off",
        ]
        if self.has_tpm:
            command += ["-chardev", f"socket,id=tpm,path={self.runtime}/tpm", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
                        "-device", "tpm-tis,tpmdev=tpm0"]
        if self.cd is not None:
            command += ["-device", "virtio-scsi-pci", "-drive", f"if=none,id=cd,format=raw,media=cdrom,readonly=on,file={self.cd}",
                        "-device", "scsi-cd,drive=cd,bootindex=0"]
        if self.clock is not None:
            command += ["-rtc", f"base={self.clock}"]
        network = "user,id=net,restrict=on" + "".join(
            f",guestfwd=tcp:{CONTROLLER_ADDRESS}:{guest}-cmd:socat - TCP:127.0.0.1:{host}" for guest, host in self.forwards.items())
        return command + ["-netdev", network, "-device", "virtio-net-pci,netdev=net,romfile="]

    def _disk_options(self):
        if self.write_log is None:
            return ["-drive", f"if=none,id=disk,format=raw,cache=unsafe,file={self.node.disk}"]
        # Flushes end at the log: this machine's own disk is not what is tested.
        return ["-blockdev", f"driver=file,node-name=disk-file,filename={self.node.disk},cache.no-flush=on",
                "-blockdev", "driver=raw,node-name=disk-raw,file=disk-file,cache.no-flush=on",
                "-blockdev", f"driver=file,node-name=log-file,filename={self.write_log},cache.no-flush=on",
                "-blockdev", "driver=blklogwrites,node-name=disk,file=disk-raw,log=log-file,log-sector-size=512"]

    def _monitor(self, command, **arguments):
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(10 * patience())
            monitor.connect(str(self.runtime / "qmp"))
            stream = monitor.makefile("rwb")
            for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                if request["execute"] == "qmp_capabilities":
                    stream.readline()  # the greeting
                stream.write(json.dumps(request).encode() + b"\n")
                stream.flush()
                while True:
                    answer = json.loads(stream.readline())
                    if "error" in answer:
                        raise LabError(f"QEMU monitor: {command}: {answer['error']}")
                    if "return" in answer:
                        break

    def reset(self):
        """Presses the reset button. Writes of the guest that were not flushed may be lost, as on a real machine."""
        self._monitor("system_reset")

    def pull_medium(self):
        """Takes the medium out of the CD drive, whatever the guest does with it."""
        self._monitor("eject", device="cd", force=True)

    def boots(self):
        return self.guest.hellos()

    def wait_for_boot(self, after=0, timeout=60):
        """Waits until the guest has come up more than `after` times; `timeout` is for an idle machine."""
        try:
            self.guest.wait_for_boot(after, timeout * patience())
        except LabError as error:
            raise LabError(f"{error}\nThe serial port's end:\n" + "\n".join(self.serial.text().splitlines()[-30:])) from error

    def run(self, script, timeout=30, check=True):
        """Runs a script in the guest and returns its output."""
        return self.guest.run(script, timeout * patience(), check)[1]

    def power_off(self, timeout=30):
        """Orderly: the guest shuts down, the machine ends."""
        self.guest.send("systemctl poweroff")
        self.processes[-1].wait(timeout * patience())
        self.stop()

    def stop(self):
        """Pulls the plug, where it is not off already."""
        if self.guest is not None:
            self.guest.close()
            self.guest = None
        stop_processes(self.processes, self.runtime)
        self.processes = []
        (self.node.folder / "run.json").unlink(missing_ok=True)


def stop_processes(processes, runtime):
    for process in reversed(processes):
        process.stop()
    if runtime is not None:
        shutil.rmtree(runtime, ignore_errors=True)


def stop_kept(folder):
    """Ends the processes of a machine that an earlier program left running. Nothing happens when there are none."""
    record = pathlib.Path(folder) / "run.json"
    if not record.exists():
        return
    fields = json.loads(record.read_text(encoding="utf-8"))
    stop_processes([Process.from_json(entry) for entry in fields["processes"]], pathlib.Path(fields["runtime"]))
    record.unlink()


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("run", "serial", "stop"):
        sys.exit(__doc__)
    verb, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    if verb == "serial":
        print(Serial(folder / "serial.log", lambda: True).text())
    elif verb == "stop":
        stop_kept(folder)
    else:
        record = folder / "run.json"
        if not record.exists():
            raise LabError(f"{folder} is not running")
        channel = GuestChannel(pathlib.Path(json.loads(record.read_text(encoding="utf-8"))["runtime"]) / "lab", lambda: True)
        channel.wait_for_boot(0, 30)
        status, output = channel.run(" ".join(sys.argv[3:]), 300, check=False)
        print(output, end="")
        sys.exit(status)


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"vm.py: {error}")
