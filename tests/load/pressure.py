"""Puts `trunkline up` under pressure and fails if others feel it or if memory stays behind; see scripts/pressure."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))

from contestants import Bench, Running  # noqa: E402
from mesh import Mesh, exit_on_signals  # noqa: E402

ROOT = HERE.parents[1]
MIB = 1 << 20
MARGIN = 64 * MIB
# Callers may become this much slower at the 99th percentile.
SLOWER = 2.0
# Whoever dribbles is let go within the bounds of the head and the body, and a little.
LONGEST_S = 15.0
BLOB = 4 * MIB
# The bound on the sessions of one caller, as it is unless somebody sets it otherwise.
BUDGET = ["session.max_sessions_per_principal=1000"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/pressure", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="slow, flood; both unless given")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the flood")
    parser.add_argument("--dribbling", type=int, default=5000, help="connections that dribble or say nothing")
    parser.add_argument("--rounds", type=int, default=3, help="how often callers are measured without and with them")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="a setting of `up`")
    parser.add_argument("--trunkline", default="trunkline", metavar="PATH", help="another binary to press")
    return parser.parse_args()


class Pressure:
    """One run; counts what held and what did not."""

    def __init__(self, wanted: argparse.Namespace, binaries: Path):
        self.wanted, self.binaries = wanted, binaries
        self.passed = self.failed = 0

    def bench(self, mesh: Mesh) -> Bench:
        return Bench(mesh, self.wanted.trunkline, self.wanted.set)

    def check(self, good: bool, what: str) -> None:
        self.passed += good
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {what}", flush=True)

    def press(self, running: Running, *args: str) -> dict | list | None:
        """Runs the generator; a wrong answer fails it."""
        processes = ",".join(map(str, running.processes))
        argv = [str(self.binaries / "pressure"), *args, "--processes", processes, "--", running.url]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            self.check(False, f"{args[0]}: every answer is right: {done.stderr.strip()}")
            return None
        return json.loads(done.stdout)

    def slow(self) -> None:
        """Thousands that dribble, are silent or stop reading: others do not feel it."""
        with tempfile.TemporaryDirectory() as work, Mesh(self.binaries, Path(work)) as mesh:
            bench = self.bench(mesh)
            registries = bench.catalogues(1, 1, "--blob", str(BLOB))
            running = bench.up(registries=registries, tools=4)
            options = ["--dribbling", str(self.wanted.dribbling), "--rounds", str(self.wanted.rounds)]
            rounds = self.press(running, "slow", *options)
        if rounds is None:
            return
        quiet, pressed = ([one[part]["p99_ms"] for one in rounds] for part in ("quiet", "pressed"))
        for part in ("quiet", "pressed"):
            for one in rounds:
                figures = one[part]
                print(
                    f"   {part:<8} p50 {figures['p50_ms']:.2f} ms  p99 {figures['p99_ms']:.2f} ms  {figures['rate']:,.0f}/s  "
                    f"{figures['memory']['pss'] / MIB:.0f} MiB  elsewhere {figures['elsewhere']:.0%}"
                )
        ratio = median(one / other for one, other in zip(pressed, quiet))
        self.check(ratio < SLOWER, f"p99 of callers under pressure is {ratio:.2f} x that without, at most {SLOWER:g} x")
        fates: dict[str, dict] = {}
        for one in rounds:
            for kind, fate in one["fates"].items():
                print(f"   {kind:<15} {fate['opened']} opened, {fate['closed']} closed by the server, at the latest after {fate['longest_s']:.1f} s")
                seen = fates.setdefault(kind, {"opened": 0, "closed": 0, "refused": 0, "longest_s": 0.0})
                seen["longest_s"] = max(seen["longest_s"], fate["longest_s"])
                for count in ("opened", "closed", "refused"):
                    seen[count] += fate[count]
        for kind in ("dribbles-head", "dribbles-body", "silent"):
            fate = fates[kind]
            let_go = fate["closed"] > 0 and fate["longest_s"] <= LONGEST_S
            self.check(let_go, f"{kind}: let go after {fate['longest_s']:.1f} s, at the latest after {LONGEST_S:g} s")

    def flood(self) -> None:
        """As many sessions as there can be: the memory comes back when they have ended."""
        short = ["session.init_timeout_s=3", "session.idle_timeout_s=6"]
        for title, settings, seconds in (
            ("taken on", short, self.wanted.seconds),
            ("within the budget of one caller", [*short, *BUDGET], self.wanted.seconds / 6),
        ):
            with tempfile.TemporaryDirectory() as work, Mesh(self.binaries, Path(work)) as mesh:
                running = self.bench(mesh).up(*settings)
                made = self.press(running, "flood", "--seconds", str(seconds), "--margin", str(MARGIN))
            if made is None:
                continue
            before, most, after = (made[name] / MIB for name in ("before", "most", "after"))
            print(
                f"   {title}: {made['accepted']:,} sessions made and {made['refused']:,} refused in {made['seconds']:.0f} s; "
                f"memory {before:.0f} MiB, at most {most:.0f} MiB, {after:.0f} MiB after {made['settled_s']:.0f} s"
            )
            self.check(made["settled"], f"{title}: memory back to within {MARGIN // MIB} MiB ({after - before:+.0f} MiB)")


def main() -> int:
    exit_on_signals()
    wanted = arguments()
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    pressure = Pressure(wanted, target / "release")
    if unknown := set(wanted.parts) - {"slow", "flood"}:
        sys.exit(f"no such part: {', '.join(sorted(unknown))}")
    if not wanted.parts or "slow" in wanted.parts:
        pressure.slow()
    if not wanted.parts or "flood" in wanted.parts:
        pressure.flood()
    print(f"{pressure.passed} passed, {pressure.failed} failed")
    return 1 if pressure.failed or not pressure.passed else 0


if __name__ == "__main__":
    sys.exit(main())
