"""Measures what the mesh costs, beside floors and peers on the same machine; see scripts/bench."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))

import failover  # noqa: E402
import report  # noqa: E402
import stores  # noqa: E402
from contestants import UNBOUND, Bench, Running, threads_of_three  # noqa: E402
from mesh import Mesh, exit_on_signals  # noqa: E402
from rows import GROUPS, GROWN, GROWTH, Group, Row  # noqa: E402

ROOT = HERE.parents[1]
IDLE, STREAMS, KEPT = 100_000, 10_000, 200_000
SINGLES = ("growth", "memory", failover.NAME)


class Wrong(RuntimeError):
    """A measurement in which something was wrong."""


def arguments() -> argparse.Namespace:
    names = [group.name for group in GROUPS] + list(SINGLES)
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"groups ({', '.join(names)}) or rows (--list); all unless given")
    parser.add_argument("--rounds", type=int, default=5, help="how often each row is measured")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement")
    parser.add_argument("--quick", action="store_true", help="a little of everything: does it run, and is every answer right?")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a setting of every role")
    parser.add_argument("--trunkline", default="trunkline", metavar="PATH", help="another binary to measure")
    parser.add_argument("--nice", type=int, default=0, metavar="N", help="priority of everything here; -15 on a machine that others use too")
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md, those that were measured")
    parser.add_argument("--list", action="store_true", help="print the names of all rows")
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


class Run:
    """One run of the bench."""

    def __init__(self, wanted: argparse.Namespace, binaries: Path):
        self.wanted, self.binaries = wanted, binaries
        self.results = report.Results()
        self.rounds = 1 if wanted.quick else wanted.rounds
        self.seconds = 0.4 if wanted.quick else wanted.seconds

    def wants(self, *names: str) -> bool:
        return not self.wanted.rows or any(name in self.wanted.rows for name in names)

    def bench(self, mesh: Mesh) -> Bench:
        trunkline = self.wanted.trunkline
        if "/" in trunkline:
            trunkline = str(Path(trunkline).resolve())
        return Bench(mesh, trunkline, self.wanted.set, not self.wanted.quick)

    def load(self, running: Running, *args: str) -> dict:
        """Runs the generator once."""
        processes = ",".join(map(str, running.processes))
        argv = [str(self.binaries / "load"), *args, "--processes", processes, "--", running.url]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Wrong(f"{' '.join(argv)}:\n{done.stderr}")
        return json.loads(done.stdout)

    def measure(self, row: str, running: Running, kind: str, clients: int, *options: str) -> None:
        warm_up = 0.1 if self.wanted.quick else 0.7
        times = ["--seconds", str(self.seconds), "--warm-up", str(warm_up)]
        figures = self.load(running, "run", kind, "--clients", str(clients), *times, *options)
        if figures["calls"] == 0:
            raise Wrong(f"{row}: no answer in {self.seconds} s")
        self.results.add(row, figures)
        say(
            f"{row:<18} {figures['rate']:>9,.0f}/s  p50 {figures['p50_ms']:.3f} ms  p99 {figures['p99_ms']:.3f} ms  "
            f"CPU {figures['cpu_per_1000']:.4f} s per 1,000  elsewhere {figures['elsewhere']:.0%}"
        )

    def group(self, group: Group) -> None:
        rows = [row for row in group.rows if self.wants(group.name, row.name)]
        if not rows:
            return
        if group.fresh:
            for number in range(self.rounds):
                self.round(group, rows, number, 1)
        else:
            self.round(group, rows, 0, self.rounds)

    def round(self, group: Group, rows: list[Row], first: int, rounds: int) -> None:
        """Starts the chains once and measures the rows in turn, so many times."""
        with tempfile.TemporaryDirectory() as work, Mesh(self.binaries, Path(work)) as mesh:
            bench = self.bench(mesh)
            needed = {row.chain for row in rows}
            chains = {name: start(bench) for name, start in group.chains.items() if name in needed}
            for number in range(rounds):
                say(f"{group.name}, round {first + number + 1} of {self.rounds}")
                for row in rows:
                    if (running := chains[row.chain]) is not None:
                        self.measure(row.name, running, row.kind, row.clients, *row.options)
        if untraced := bench.untraced():
            raise Wrong(f"no span came to {', '.join(untraced)}")

    def wanted_threads(self) -> str:
        """Of a process that shares the machine with two others."""
        given = dict(setting.split("=", 1) for setting in self.wanted.set)
        return given.get("runtime.threads", str(threads_of_three()))

    def growth(self) -> None:
        """Older calls that take turns among few sessions and among many."""
        with tempfile.TemporaryDirectory() as work, Mesh(self.binaries, Path(work)) as mesh:
            bench = self.bench(mesh)
            chains = {}
            for count in GROWN:
                made = min(count, 2_000) if self.wanted.quick else count
                ids = Path(work) / f"sessions-{count}"
                chains[count] = bench.up(), ids
                self.load(chains[count][0], "sessions", "--count", str(made), "--out", str(ids))
            for number in range(self.rounds):
                say(f"growth, round {number + 1} of {self.rounds}")
                for count, (running, ids) in chains.items():
                    self.measure(f"grown-{count}", running, "older", 16, "--sessions", str(ids))

    def memory(self) -> None:
        """Idle sessions, then open streams, each on a mesh that has done nothing else."""
        idle, streams = (2_000, 200) if self.wanted.quick else (IDLE, STREAMS)
        plan = (
            ("idle-up", "`trunkline up`", Bench.up, idle, []),
            ("streams-up", "`trunkline up`", Bench.up, streams, ["--streams"]),
            ("streams-split", "gateway, session, tool-registry", Bench.split, streams, ["--streams"]),
        )
        for name, title, start, count, options in plan:
            if not self.wants("memory", name):
                continue
            with tempfile.TemporaryDirectory() as work, Mesh(self.binaries, Path(work)) as mesh:
                made = self.load(start(self.bench(mesh)), "sessions", "--count", str(count), *options)
            self.results.add(name, {**made, "title": title})
            say(f"{name:<18} {made['bytes_per_session']:,.0f} B per session, {made['bytes_per_stream']:,.0f} B per stream")

    def kept(self) -> None:
        """Idle sessions whose state is in Redis and nowhere else: as many as are passive once nobody has used them for the default time."""
        count = 2_000 if self.wanted.quick else KEPT
        soon = ["session.passivate_after_s=1"] if self.wanted.quick else []
        with tempfile.TemporaryDirectory() as work, Mesh(self.binaries, Path(work)) as mesh:
            running = self.bench(mesh).clustered(*soon)
            before = stores.used_bytes(running.redis)
            owner = Running(running.url, running.processes[:2])
            made = self.load(owner, "sessions", "--count", str(count), "--passive-at", running.metrics)
            made["bytes_in_redis"] = (stores.used_bytes(running.redis) - before) / count
        title = "gateway and session node, state in Redis, passive"
        self.results.add("idle-redis", {**made, "title": title})
        say(f"idle-redis         {made['bytes_in_redis']:,.0f} B in Redis, {made['bytes_per_session']:,.0f} B in gateway and owner")

    def failover(self) -> None:
        """What sessions feel when their owner goes."""
        try:
            rows = failover.measure(self.binaries, release(), self.wanted.quick)
        except failover.Failed as failed:
            raise Wrong(f"fail-over:\n{failed}") from failed
        for row, figures in rows:
            self.results.add(row, figures)
            say(f"{row:<18} p50 {figures['p50_ms']} ms  p99 {figures['p99_ms']} ms  max {figures['max_ms']} ms  of {figures['felt']}")

    def all(self) -> None:
        before = os.getloadavg()
        for group in GROUPS:
            self.group(group)
        if self.wants("growth"):
            self.growth()
        if self.wants("memory", "idle-up", "streams-up", "streams-split"):
            self.memory()
        if self.wants("memory", "idle-redis"):
            self.kept()
        if self.wants(failover.NAME):
            self.failover()
        with tempfile.TemporaryDirectory() as work:
            effective = self.bench(Mesh(self.binaries, Path(work))).effective()
        settings = dict(setting.split("=", 1) for setting in [*UNBOUND, *self.wanted.set])
        if "runtime" in effective:
            settings.setdefault("runtime.threads", effective["runtime"]["threads"])
            settings["runtime.threads of each separate process"] = self.wanted_threads()
        shares = [figures.get("elsewhere", 0.0) for rounds in self.results.rounds.values() for figures in rounds]
        self.results.machine = {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "release": release(),
            "profile": self.binaries.name,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "load_before": f"{before[0]:.2f}",
            "load_after": f"{os.getloadavg()[0]:.2f}",
            "nice": self.wanted.nice,
            "quick": self.wanted.quick,
            "elsewhere": sum(shares) / max(1, len(shares)),
            "settings": settings,
        }


def prefer(nice: int) -> None:
    """Gives this process and what it starts another priority, also against other sessions where the kernel groups by session."""
    os.nice(nice)
    group = Path("/proc/self/autogroup")
    if group.exists():
        group.write_text(str(nice), encoding="utf-8")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def release() -> str:
    argv = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False).stdout.strip() or "unknown"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    exit_on_signals()
    wanted = arguments()
    known = {row.name for group in GROUPS for row in group.rows} | {group.name for group in GROUPS}
    known |= {*SINGLES, "idle-up", "streams-up", "streams-split", "idle-redis"}
    if wanted.list:
        print("\n".join(row.name for group in GROUPS for row in group.rows))
        return 0
    if unknown := set(wanted.rows) - known:
        sys.exit(f"no such row: {', '.join(sorted(unknown))}; there are: {', '.join(sorted(known))}")
    if wanted.nice:
        prefer(wanted.nice)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    run = Run(wanted, target / ("debug" if wanted.debug else "dist"))
    try:
        run.all()
    except Wrong as wrong:
        sys.exit(f"WRONG: {wrong}")
    found = report.parts(run.results, [*GROUPS, GROWTH])
    text = "\n\n".join(found.values())
    report.write(run.results, text, target / "bench")
    print(text)
    if wanted.readme:
        report.into_readme(found, ROOT / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
