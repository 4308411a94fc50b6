"""A controller of the lab: its configuration, its process, and the configuration that nodes get to find it."""
import json
import pathlib

import vm
from processes import LabError, Process, run, tail, wait_until

# What nodes are told; vm.py forwards these ports of 10.0.2.100 to where the controller really listens.
FLEET_PORT, ENROLMENT_PORT = 7443, 7444


class Controller:
    """One sealift-controller on the loopback. `tokens` are --token arguments' values: the online group only."""

    def __init__(self, programs, folder, keys, tokens, tpm_makers):
        self.program, self.folder = programs / "sealift-controller", pathlib.Path(folder)
        self.keys, self.tokens, self.tpm_makers = keys, tokens, tpm_makers
        self.process, self.addresses = None, {}

    def start(self, keep=False):
        """Starts it and returns when it listens. Intervals are short, so that a story takes minutes, not hours."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config, ready, log = self.folder / "controller.toml", self.folder / "ready.json", self.folder / "controller.log"
        config.write_text(
            f"state_dir = {json.dumps(str(self.folder / 'state'))}\n"
            f"keys = {json.dumps(str(self.keys))}\ntokens = {json.dumps(self.tokens)}\n"
            f'[listen]\nfleet = "127.0.0.1:0"\nenrolment = "127.0.0.1:0"\nmetrics = "127.0.0.1:0"\n'
            f"ready_file = {json.dumps(str(ready))}\n"
            f'[tls]\nnames = ["localhost", "127.0.0.1", "{vm.CONTROLLER_ADDRESS}"]\n'
            f"[enrolment]\ntpm_makers = {json.dumps(str(self.tpm_makers))}\n"
            "[nodes]\npoll_ms = 3000\nbusy_poll_ms = 2000\nquote_retry_ms = 3000\n", encoding="utf-8")
        ready.unlink(missing_ok=True)
        run(self.program, "--config", config, "--check-config")
        self.process = Process.start("sealift-controller", [self.program, "--config", config], log, keep)
        wait_until(lambda: ready.exists() or not self.process.alive(), 15 * vm.patience(), "the controller listening")
        if not ready.exists():
            raise LabError(f"the controller did not start:\n{tail(log)}")
        self.addresses = json.loads(ready.read_text(encoding="utf-8"))
        (self.folder / "process.json").write_text(json.dumps(self.process.to_json()), encoding="utf-8")

    def forwards(self):
        """For vm.Machine: how its guest reaches both listeners."""
        return {FLEET_PORT: int(self.addresses["fleet"].rpartition(":")[2]),
                ENROLMENT_PORT: int(self.addresses["enrolment"].rpartition(":")[2])}

    def stop(self):
        """Ends it as systemd would; returns its exit code, which is 0 after a clean shutdown."""
        if self.process is None:
            return None
        self.process.stop(grace=20 * vm.patience())
        code = self.process.exit_code()
        self.process = None
        (self.folder / "process.json").unlink(missing_ok=True)
        return code


def stop_kept(folder):
    """Ends a controller that an earlier program left running."""
    record = pathlib.Path(folder) / "process.json"
    if record.exists():
        Process.from_json(json.loads(record.read_text(encoding="utf-8"))).stop(grace=60)
        record.unlink()


def node_config(keys):
    """node.toml: where the controller is, and the two roots of trust that are measured with the image."""
    ca, root = (keys / "node-ca.pem").read_text(encoding="ascii"), (keys / "tuf/1.root.json").read_text(encoding="utf-8")
    return (f'[controller]\naddress = "{vm.CONTROLLER_ADDRESS}:{FLEET_PORT}"\n'
            f'enrolment_address = "{vm.CONTROLLER_ADDRESS}:{ENROLMENT_PORT}"\n'
            f"ca_pem = {json.dumps(ca)}\n[tuf]\nroot_json = {json.dumps(root)}\n"
            '[node]\nlabels = { site = "lab" }\n[volumes]\nencryption = "off"\n')
