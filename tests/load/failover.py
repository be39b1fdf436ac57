"""How long a session waits when its owner dies, falls silent, or leaves: what scripts/faults measures, as rows of the table."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

NAME = "failover"
# What is asked of the fault runner, and which of its spreads is the answer: the longest time without success, or the longest operation.
FAULTS = {
    "F1": ("failover-killed", "the owner is killed, 200 calls in flight", "recovery"),
    "F3": ("failover-silent", "the owner is paused for 30 s, then goes on", "recovery"),
    "drain": ("failover-drained", "session nodes leave in turn and come back", "moved"),
}
ROWS = [name for name, _, _ in FAULTS.values()]


class Failed(RuntimeError):
    """A run whose history the checker did not acquit."""


def measure(binaries: Path, commit: str, quick: bool) -> list[tuple[str, dict]]:
    """Runs the faults, a quick run only the planned one; returns each row and its figures."""
    faults = ["drain"] if quick else list(FAULTS)
    with tempfile.TemporaryDirectory() as work:
        told = Path(work) / "figures.jsonl"
        options = ["--commit", commit, "--json", str(told), *(["--quick"] if quick else [])]
        done = subprocess.run([binaries / "faults", *options, *faults], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise Failed(done.stdout)
        lines = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]
    rows = []
    for line in lines:
        row, title, spread = FAULTS[line["fault"]]
        figures = line["figures"]
        waited = {f"{name}_ms": figures[spread][name] for name in ("p50", "p99", "max")}
        counts = {name: figures[name] for name in ("operations", "faults", "failed", "lost", "duplicated", "unknown", "refused")}
        rows.append((row, {**waited, **counts, "felt": figures[spread]["count"], "title": title}))
    return rows


def markdown(rounds: dict[str, list[dict]]) -> str:
    """The table, if there is anything in it."""
    lines = []
    for row in ROWS:
        for seen in rounds.get(row, []):
            waited = f"{seen['p50_ms']:,} / {seen['p99_ms']:,} / {seen['max_ms']:,} ({seen['felt']:,})"
            counts = " | ".join(f"{seen[name]:,}" for name in ("operations", "lost", "duplicated", "unknown", "refused"))
            lines.append(f"| {seen['title']} | {seen['faults']} | {waited} | {counts} |")
    if not lines:
        return ""
    head = [
        "**Fail-over**: 3 session nodes, 2 gateways, 3 etcd, Redis with a replica, under load; judged by the history checker of `./scripts/faults`; "
        "sessions that waited for less than 250 ms for another owner felt nothing and are left out of the first two rows",
        "",
        "|  | faults | a session waited p50 / p99 / max ms (sessions) | operations | lost | duplicated | unknown | stale writes refused |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    return "\n".join([*head, *lines])
