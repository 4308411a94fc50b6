"""Processes that the lab starts, waits for and ends, by id and never by name.

A Process is remembered with its start time, so that an id which the kernel gave to somebody else meanwhile is
left alone. What is started without `keep` dies with the program that started it, however that ends.
"""
import os
import signal
import subprocess
import sys
import time

_STARTED = time.monotonic()


class LabError(Exception):
    """The lab could not do what was asked; the message says why, for a person."""


def say(text):
    """One line of progress with the minutes and seconds since the program began."""
    elapsed = int(time.monotonic() - _STARTED)
    print(f"[{elapsed // 60:2d}:{elapsed % 60:02d}] {text}", flush=True)


def run(*command, cwd=None, env=None, timeout=300, input=None):
    """Runs a command to its end and returns what it printed. LabError with its output when it fails."""
    try:
        done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, timeout=timeout, input=input,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              stdin=subprocess.DEVNULL if input is None else None, check=False)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{command[0]} took longer than {timeout} s") from error
    if done.returncode != 0:
        shown = " ".join(str(part) for part in command)
        raise LabError(f"{shown}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def run_with_progress(label, *command, cwd=None, env=None, timeout=3600, log):
    """Like run, for minutes-long commands: output goes to `log`, a line a minute tells that it lives."""
    began = time.monotonic()
    shown = began
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen([str(part) for part in command], cwd=cwd, env=env, stdin=subprocess.DEVNULL,
                                   stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                now = time.monotonic()
                if now - began > timeout:
                    raise LabError(f"{label} took longer than {timeout} s (see {log})")
                if now - shown > 30:
                    shown = now
                    say(f"  ... {label}: {int(now - began)} s: {last_line(log)}")
                try:
                    process.wait(1)
                except subprocess.TimeoutExpired:
                    pass
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise LabError(f"{label}: exit code {process.returncode}\n{tail(log)}")
    return time.monotonic() - began


def tail(path, lines=25):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return "".join(file.readlines()[-lines:])
    except FileNotFoundError:
        return ""


def last_line(path):
    lines = tail(path, 1)
    return lines.strip()[:100]


def wait_until(condition, timeout, what, pause=0.05):
    """Polls `condition` until it returns something true, which is returned. LabError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout:.0f} s")
        time.sleep(pause)


def _start_time(pid):
    """Clock ticks since boot at which the process began, or None when there is no such process (or a zombie)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Process:
    """One started process. Not thread-safe."""

    def __init__(self, name, pid, started, log=None):
        self.name, self.pid, self.started, self.log = name, pid, started, log
        self._child = None

    @classmethod
    def start(cls, name, command, log, keep=False, env=None, cwd=None):
        """Starts it with its output appended to `log`. keep: it outlives this program."""
        command = [str(part) for part in command]
        if not keep:
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        with open(log, "ab") as output:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                     start_new_session=True, env=env, cwd=cwd)
        process = cls(name, child.pid, _start_time(child.pid), str(log))
        process._child = child
        return process

    def alive(self):
        if self._child is not None and self._child.poll() is not None:
            return False
        return self.started is not None and _start_time(self.pid) == self.started

    def wait(self, timeout):
        """Waits for it to end by itself."""
        wait_until(lambda: not self.alive(), timeout, f"{self.name} ending")
        return None if self._child is None else self._child.wait()

    def stop(self, grace=10):
        """Asks it to end, then makes it. Harmless when it has ended."""
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 10)):
            if not self.alive():
                break
            os.kill(self.pid, number)
            try:
                wait_until(lambda: not self.alive(), patience, f"{self.name} ending")
            except LabError:
                continue
        if self._child is not None:
            self._child.poll()

    def exit_code(self):
        """Of a child that ended; negative for a signal. None for one that runs, or that another program started."""
        return None if self._child is None else self._child.poll()

    def to_json(self):
        return {"name": self.name, "pid": self.pid, "started": self.started, "log": self.log}

    @classmethod
    def from_json(cls, fields):
        return cls(fields["name"], fields["pid"], fields["started"], fields["log"])


def end_on_signals():
    """SIGTERM and SIGHUP become SystemExit, so that every finally clause and with statement runs."""
    def end(number, _frame):
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
