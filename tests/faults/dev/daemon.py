"""Processes that go on when the script that started them has ended, and are found again by number and time of birth."""

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

START_S = 60
STOP_S = 25


class Trouble(RuntimeError):
    """Something that the caller can do something about; the text says what."""


@dataclass
class Daemon:
    """One process. Another one that has got its number since is not it."""

    name: str
    pid: int
    born: str
    log: str

    @classmethod
    def start(cls, name: str, argv: list[str], log: Path) -> "Daemon":
        out = log.with_suffix(".out")
        try:
            with log.open("ab") as errors, out.open("wb") as said:
                child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=errors, start_new_session=True)
        except OSError as error:
            raise Trouble(f"{name} cannot be started: {error}") from error
        return cls(name, child.pid, born(child.pid) or "", str(log))

    def known(self) -> dict:
        return {"name": self.name, "pid": self.pid, "born": self.born, "log": self.log}

    def runs(self) -> bool:
        return bool(self.born) and born(self.pid) == self.born

    def says(self, beginning: str) -> str:
        """Waits for a line that begins so; the rest of it."""
        out = Path(self.log).with_suffix(".out")
        found = lambda: next((line for line in out.read_text(encoding="utf-8").splitlines() if line.startswith(beginning)), "")
        wait_for(f"{self.name} to say where it listens", lambda: bool(found()), START_S, [self])
        return found().removeprefix(beginning)

    def send(self, number: int) -> bool:
        if not self.runs():
            return False
        os.kill(self.pid, number)
        return True

    def ask_to_end(self) -> bool:
        return self.send(signal.SIGTERM)

    def ended(self) -> None:
        """Waits until it has; one that does not in time is killed."""
        end = monotonic() + STOP_S
        while self.runs():
            if monotonic() > end:
                self.send(signal.SIGKILL)
                return
            sleep(0.05)

    def tail(self) -> str:
        lines = Path(self.log).read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return "\n  ".join([f"{self.name} has ended; its log {self.log} ends with", *lines])


def born(pid: int) -> str | None:
    """When a process was started, in the kernel's own count; None for one that is gone or only waits to be forgotten."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def wait_for(what: str, there, seconds: float, watched: list[Daemon] | None = None) -> None:
    """Waits until something is there; says what is missing if it is not in time, or if a process that it needs has ended."""
    end = monotonic() + seconds
    while not there():
        for daemon in watched or []:
            if not daemon.runs():
                raise Trouble(daemon.tail())
        if monotonic() > end:
            raise Trouble(f"waited {seconds:.0f} s for {what}")
        sleep(0.1)
