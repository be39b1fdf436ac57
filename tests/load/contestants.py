"""What is measured: how each chain is started, and how one waits until it serves."""

from __future__ import annotations

import base64
import os
import subprocess
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import stores
import wire
from mesh import Died, Mesh

READY_S = 30
# Whoever measures is one caller from one address; what is measured is the work, not the bounds on what one caller may do.
UNBOUND = (
    "gateway.requests_per_s_per_principal=0",
    "gateway.max_streams_per_principal=0",
    "session.max_sessions_per_principal=0",
    "session.max_listens_per_principal=0",
)
PEER = Path(__file__).resolve().parent / "peer" / "Cargo.toml"


@dataclass
class Running:
    """A chain that serves: where, and which processes it consists of."""

    url: str
    processes: list[int]
    redis: str = ""
    # Where the session node's metrics are.
    metrics: str = ""


@dataclass
class Bench:
    """Where the binaries are, what the mesh is set to, and everything that is running."""

    mesh: Mesh
    trunkline: str = "trunkline"
    settings: list[str] = field(default_factory=list)
    with_peer: bool = True
    collectors: list = field(default_factory=list)
    _number: int = 0

    def _start(self, binary: str, *args: str, said: str):
        self._number += 1
        process = self.mesh.start(f"{self._number}-{Path(binary).name}-{args[0].strip('-')}", binary, *args)
        return process, process.address(said)

    def _role(self, role: str, settings: list[str]):
        flags = [arg for setting in [*UNBOUND, *settings, *self.settings] for arg in ("--set", setting)]
        said = "gateway" if role == "up" else role
        # Sessions in memory, as without --data; a later `--set store.file=..` measures the other.
        more = ["--data", str(self.mesh.work / f"data-{self._number}"), "--set", "store.file=none"] if role == "up" else []
        return self._start(self.trunkline, role, "--listen", "127.0.0.1:0", *more, *flags, said=said)

    def effective(self) -> dict:
        """The settings in effect, as the binary itself prints them."""
        flags = [arg for setting in self.settings for arg in ("--set", setting)]
        argv = [str(self.mesh.binaries / self.trunkline), "up", "--dump-config", *flags]
        return tomllib.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)

    def echo(self, *, single: bool = False) -> Running:
        """An HTTP server that answers with what it was sent."""
        edge, url = self._start("floor", "edge", *single_flag(single), said="edge")
        return Running(url, [edge.pid])

    def floor(self, *, single: bool = False) -> Running:
        """An HTTP server that asks a gRPC service that asks another one."""
        flag = single_flag(single)
        last, last_at = self._start("floor", "service", *flag, said="service")
        middle, middle_at = self._start("floor", "service", "--next", last_at, *flag, said="service")
        edge, url = self._start("floor", "edge", "--next", middle_at, *flag, said="edge")
        return Running(url, [edge.pid, middle.pid, last.pid])

    def up(self, *settings: str, registries: list[str] = (), tools: int = 2) -> Running:
        """The whole mesh in one process."""
        served = inline([{"address": address} for address in registries])
        more = [f"session.registries={served}"] if registries else []
        process, url = self._role("up", [*settings, *more])
        ready(url, tools)
        return Running(url, [process.pid])

    def split(self, *settings: str) -> Running:
        """A gateway, a session node and a tool registry, each a process of its own. They share the cores between them."""
        settings = (f"runtime.threads={threads_of_three()}", *settings)
        keys = f'keys.ring={{k1="{base64.b64encode(os.urandom(32)).decode()}"}}'
        both = ["keys.current=k1", keys, *settings]
        tools, tools_at = self._role("tool-registry", list(settings))
        registries = inline([{"address": tools_at}])
        session, session_at = self._role("session", [*both, f"session.registries={registries}"])
        sessions = inline([{"address": session_at}])
        gateway, url = self._role("gateway", [*both, f"gateway.sessions={sessions}"])
        ready(url, 2)
        return Running(url, [gateway.pid, session.pid, tools.pid])

    def clustered(self, *more: str) -> Running:
        """The same with etcd, which says who owns what, and Redis, in which sessions and their calls are written down."""
        redis, redis_at = stores.redis(self.mesh, self._number)
        etcd, etcd_at = stores.etcd(self.mesh, self._number)
        settings = [f"runtime.threads={threads_of_three()}", f'cluster.etcd=["{etcd_at}"]']
        keys = f'keys.ring={{k1="{base64.b64encode(os.urandom(32)).decode()}"}}'
        both = ["keys.current=k1", keys, *settings]
        tools, _ = self._role("tool-registry", settings)
        session, _ = self._role("session", [*both, f'store.redis=["{redis_at}"]', *more])
        gateway, url = self._role("gateway", both)
        ready(url, 2)
        begun(url)
        metrics = f"{session.address('admin').rstrip('/')}/metrics"
        return Running(url, [gateway.pid, session.pid, tools.pid, redis.pid, etcd.pid], redis_at, metrics)

    def sdk(self) -> Running | None:
        """A server of the official Rust SDK with the same tool and nothing in front of it; built when it is first needed."""
        if not self.with_peer:
            return None
        target = self.mesh.binaries.parent / "peer"
        argv = ["cargo", "build", "--quiet", "--locked", "--release", "--manifest-path", str(PEER), "--target-dir", str(target)]
        subprocess.run(argv, check=True)
        process, url = self._start(str(target / "release" / "peer"), "serve", said="peer")
        return Running(url, [process.pid])

    def catalogues(self, count: int, tools: int, *more: str) -> list[str]:
        """Registries with so many tools each."""
        flags = [("--namespace", f"team-{number}", "--tools", str(tools), *more) for number in range(count)]
        return [self._start("catalogue", *flag, said="catalogue")[1] for flag in flags]

    def traced(self, share: float) -> Running:
        """The whole mesh in one process, which tells a collector of so many of its calls."""
        collector, address = self._start("collector", "serve", said="collector")
        self.collectors.append(collector)
        return self.up(f'telemetry.endpoint="{address}"', f"telemetry.sample={share}")

    def untraced(self) -> list[str]:
        """Once everything has stopped: the collectors that were told nothing."""
        told = [any(int(line.split()[2]) > 0 for line in one.lines if line.startswith("count spans ")) for one in self.collectors]
        return [one.name for one, was_told in zip(self.collectors, told) if not was_told]


def threads_of_three() -> int:
    """Threads for each of three processes that share this machine."""
    return max(1, (os.cpu_count() or 1) // 3)


def single_flag(single: bool) -> list[str]:
    return ["--single"] if single else []


def inline(tables: list[dict[str, str]]) -> str:
    """Tables as a list in TOML."""
    entries = [", ".join(f'{key}="{value}"' for key, value in table.items()) for table in tables]
    return "[" + ", ".join(f"{{{entry}}}" for entry in entries) + "]"


def begun(url: str) -> None:
    """Waits until a session can begin: somebody owns slots."""
    end = monotonic() + READY_S
    while monotonic() < end:
        try:
            wire.Session(url).open()
            return
        except AssertionError:
            sleep(0.1)
    raise Died(f"{url} begins no session within {READY_S} s")


def ready(url: str, tools: int) -> None:
    """Waits until so many tools are listed."""
    end, seen = monotonic() + READY_S, None
    while monotonic() < end:
        seen, cursor = 0, {}
        while cursor is not None:
            result = wire.modern(url, "tools/list", cursor).json().get("result", {})
            seen += len(result.get("tools", []))
            cursor = {"cursor": result["nextCursor"]} if "nextCursor" in result else None
        if seen >= tools:
            return
        sleep(0.05)
    raise Died(f"{url} lists {seen} tools after {READY_S} s, not {tools}")
