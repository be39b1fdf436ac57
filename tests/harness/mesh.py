"""Starts and stops the processes of a mesh: everything in one, or one process per role behind a balancer.

Standard library only. Every process listens on a port of the system's choice and says which on its standard output
(`listening ROLE ADDRESS`). Whatever was started is stopped again on every way out, and nothing else is touched.

    with Mesh(binaries, work) as mesh:
        fixtures = mesh.fixtures()
        url = mesh.up([fixtures])               # or mesh.split([fixtures]).url
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

START_S = 60
STOP_S = 15
SLOTS = 4096
# What `up` puts into a new data directory; separate processes are given the same.
SAMPLES = Path(__file__).resolve().parents[2] / "services" / "trunkline" / "src" / "samples"


class Died(RuntimeError):
    """A process of the mesh ended or said nothing when it should have served."""


def exit_on_signals() -> None:
    """Lets SIGTERM, SIGHUP and SIGINT unwind the stack, so that `with Mesh(...)` stops what it started."""

    def leave(number: int, _frame) -> None:
        signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, leave)


class Process:
    """One child process: its lines, its address, its end."""

    def __init__(self, name: str, argv: list[str], log: Path):
        self.name, self.argv, self.log = name, argv, log
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._closed = False
        # Should this script be killed outright, the kernel ends the child.
        tether = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        with log.open("ab") as stderr:
            self._child = subprocess.Popen(
                tether + argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._child.stdout:
            with self._said:
                self.lines.append(line.rstrip("\n"))
                self._said.notify_all()
        with self._said:
            self._closed = True
            self._said.notify_all()

    @property
    def pid(self) -> int:
        return self._child.pid

    def running(self) -> bool:
        return self._child.poll() is None

    def address(self, role: str) -> str:
        """Waits for the line `listening ROLE ADDRESS` and returns the address."""
        prefix = f"listening {role} "
        end = monotonic() + START_S
        with self._said:
            while True:
                for line in self.lines:
                    if line.startswith(prefix):
                        return line.removeprefix(prefix)
                if self._closed or not self._said.wait(max(0.0, end - monotonic())):
                    raise Died(self.report(f"did not say where its {role} listens"))

    def report(self, what: str) -> str:
        log = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:]
        return "\n  ".join([f"{self.name} (pid {self.pid}) {what}: {' '.join(self.argv)}", *self.lines, *log])

    def signal(self, number: int) -> None:
        if self.running():
            self._child.send_signal(number)

    def stop(self) -> int:
        """Asks it to drain and waits; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Waits for the end of one that was asked to end; returns the exit code. One that does not end in time is killed."""
        try:
            return self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            print(self.report(f"was asked to end and did not in {STOP_S} s"), file=sys.stderr)
            return self.kill()

    def kill(self) -> int:
        self.signal(signal.SIGKILL)
        return self._child.wait()


@dataclass
class Split:
    """Addresses of a mesh of separate processes; `url` is the balancer in front of the gateways."""

    url: str
    proxy: Process
    gateways: list[str]
    sessions: list[str]
    registries: list[str] = field(default_factory=list)


class Mesh:
    """Owns processes; leaving the context stops them, the newest first."""

    def __init__(self, binaries: Path, work: Path):
        self.binaries, self.work = binaries, work
        self.processes: dict[str, Process] = {}
        work.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, *_exc) -> None:
        self.stop()

    def start(self, name: str, binary: str, *args: str) -> Process:
        argv = [str(self.binaries / binary), *args]
        process = Process(name, argv, self.work / f"{name}.log")
        self.processes[name] = process
        return process

    def stop(self) -> dict[str, int]:
        """Stops everything, the newest first; returns the exit codes of what was still running."""
        ended = {}
        for name, process in reversed(self.processes.items()):
            if process.running():
                ended[name] = process.stop()
        return ended

    def fixtures(self) -> str:
        """Starts the registry of test content."""
        return self.start("fixtures", "fixtures", "--listen", "127.0.0.1:0").address("fixtures")

    def up(self, registries: list[str]) -> str:
        """Starts everything in one process; returns the URL for clients."""
        more = [arg for address in registries for arg in ("--registry", address)]
        data = str(self.work / "data")
        process = self.start("up", "trunkline", "up", "--listen", "127.0.0.1:0", "--data", data, *more)
        return process.address("gateway")

    def split(self, registries: list[str], *, sessions: int = 2, gateways: int = 2) -> Split:
        """Starts a process for every role, several sessions and gateways, and a balancer in front."""
        keys = {"current": "test", "ring": {"test": base64.b64encode(os.urandom(32)).decode()}}
        own = [self._registry(kind, settings, keys) for kind, settings in self._content().items()]
        registries = [*own, *registries]
        slots = slot_ranges(sessions)
        addresses = []
        for number, owned in enumerate(slots, 1):
            config = {
                "listen": "127.0.0.1:0",
                "node": f"session-{number}",
                "slots": owned,
                "registries": [{"address": address} for address in registries],
            }
            addresses.append(self._role(f"session-{number}", "session", config, keys).address("session"))
        peers = [{"address": address, "slots": owned} for address, owned in zip(addresses, slots, strict=True)]
        edges = []
        for number in range(1, gateways + 1):
            config = {"listen": "127.0.0.1:0", "sessions": peers}
            edges.append(self._role(f"gateway-{number}", "gateway", config, keys).address("gateway"))
        hosts = [edge.removeprefix("http://").removesuffix("/mcp") for edge in edges]
        proxy = self.start("proxy", "proxy", *hosts)
        return Split(f"http://{proxy.address('proxy')}/mcp", proxy, edges, addresses, registries)

    def _role(self, name: str, role: str, settings: dict, keys: dict) -> Process:
        config = self.work / f"{name}.toml"
        config.write_text(toml({role: settings, "keys": keys}), encoding="utf-8")
        return self.start(name, "trunkline", role, "--config", str(config))

    def _registry(self, role: str, settings: dict, keys: dict) -> str:
        return self._role(role, role, {"listen": "127.0.0.1:0", **settings}, keys).address(role)

    def _content(self) -> dict[str, dict]:
        """Settings of the built-in registries, with a resource and a prompt to serve."""
        resources, prompts = self.work / "resources", self.work / "prompts"
        for folder, sample in ((resources, "welcome.md"), (prompts, "greet.md")):
            folder.mkdir(exist_ok=True)
            shutil.copy(SAMPLES / sample, folder)
        return {
            "tool-registry": {"tools": ["echo", "calculator"]},
            "resource-registry": {"directories": [{"path": str(resources), "uri": "file:///docs/"}]},
            "prompt-registry": {"directory": str(prompts)},
        }


def slot_ranges(count: int) -> list[str]:
    """Divides the slots evenly: 2 gives ["0-2047", "2048-4095"]."""
    edges = [SLOTS * number // count for number in range(count + 1)]
    return [f"{first}-{after - 1}" for first, after in zip(edges, edges[1:])]


def shares(proxy: Process) -> dict[str, float]:
    """Stops a balancer and returns what part of the requests each upstream was given."""
    proxy.stop()
    counts = {}
    for line in proxy.lines:
        word, *rest = line.split()
        if word == "count":
            counts[rest[0]] = int(rest[1])
    total = sum(counts.values())
    return {address: count / total if total else 0.0 for address, count in counts.items()}


def toml(tables: dict[str, dict]) -> str:
    """Writes nested tables as TOML; lists and the tables in them inline."""
    lines = []
    for table, settings in tables.items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {_toml_value(value)}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml_value(entry)}" for key, entry in value.items()) + " }"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
