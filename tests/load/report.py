"""Draws the conclusions: medians, ratios within rounds, goals; and writes them as Markdown and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import failover
from rows import GOALS, Goal, Group

FLOOR, ECHO = "floor", "echo"


@dataclass
class Results:
    """What was measured, round by round: {row: [figures]}."""

    machine: dict = field(default_factory=dict)
    rounds: dict[str, list[dict]] = field(default_factory=dict)

    def add(self, row: str, figures: dict) -> None:
        self.rounds.setdefault(row, []).append(figures)

    def median(self, row: str, figure: str) -> float | None:
        values = [figures[figure] for figures in self.rounds.get(row, [])]
        return median(values) if values else None

    def ratio(self, row: str, figure: str, against: str) -> float | None:
        """The median of the ratios within rounds: what slows a whole round down slows both."""
        pairs = zip(self.rounds.get(row, []), self.rounds.get(against, []))
        ratios = [one[figure] / other[figure] for one, other in pairs if other[figure]]
        return median(ratios) if ratios else None

    def reached(self, goal: Goal) -> tuple[float, str] | None:
        """The figure, and which of the two marks it reaches."""
        if goal.against is None:
            value = self.median(goal.row, goal.figure)
        else:
            value = self.ratio(goal.row, goal.figure, goal.against)
        if value is None:
            return None
        good = [value >= mark if goal.least else value <= mark for mark in (goal.then, goal.first)]
        return value, "yes, both" if good[0] else "the first" if good[1] else "**no**"


def parts(results: Results, groups: list[Group]) -> dict[str, str]:
    """The report, in the parts that were measured."""
    about = _machine(results)
    waits = failover.markdown(results.rounds)
    tables = [_calls(results, group) for group in groups if any(row.name in results.rounds for row in group.rows)]
    tables += [_memory(results), _goals(results, [goal for goal in GOALS if goal.row not in failover.ROWS])]
    found = {"bench": "\n\n".join([about, *filter(None, tables)])} if any(tables) else {}
    if waits:
        goals = _goals(results, [goal for goal in GOALS if goal.row in failover.ROWS])
        found[failover.NAME] = "\n\n".join([_where(results, "bench failover"), waits, goals])
    return found


def _machine(results: Results) -> str:
    about = results.machine
    priority = f" (priority {about['nice']})" if about["nice"] else ""
    settings = ", ".join(f"`{name} = {value}`" for name, value in about["settings"].items()) or "defaults"
    quick = "**A quick run, with fewer sessions: it says that every answer was right, and nothing else.** " if about["quick"] else ""
    return quick + (
        f"{_where(results, 'bench')} Generator and servers share the cores, over loopback; {about['rounds']} rounds of {about['seconds']:g} s in turn, medians; "
        f"every answer checked; {about['elsewhere']:.0%} of the machine were used by others meanwhile{priority}. Settings: {settings}.\n\n"
        "CPU is that of all processes of the chain, the generator not among them. Figures of shared machines are proportions: compare within the table. "
        "Ratios are medians of the ratios of each round, so they may differ from the ratio of two medians that are shown."
    )


def _where(results: Results, script: str) -> str:
    about = results.machine
    return (
        f"Written by `./scripts/{script}` on {about['date']}: {about['processor']}, {about['cores']} cores, {about['system']}; "
        f"load average {about['load_before']} before, {about['load_after']} after; release {about['release']}, built as `{about['profile']}`."
    )


def _calls(results: Results, group: Group) -> str:
    lines = [f"**{group.title}**", ""]
    has_floor = any(row.chain == FLOOR for row in group.rows)
    head = ["", "clients", "/s", "p50 / p99 ms", "CPU s per 1,000"]
    head += ["CPU / floor", "/s / floor", "p50 / floor", "CPU / echo"] if has_floor else ["CPU / first", "/s / first"]
    lines += ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    measured = [row for row in group.rows if row.name in results.rounds]
    for row in measured:
        figure = lambda name, row=row: results.median(row.name, name)  # noqa: E731
        cells = [row.title, str(row.clients), f"{figure('rate'):,.0f}", f"{figure('p50_ms'):.2f} / {figure('p99_ms'):.2f}"]
        cells.append(f"{figure('cpu_per_1000'):.4f}")
        if has_floor:
            pairs = [("cpu_per_1000", FLOOR), ("rate", FLOOR), ("p50_ms", FLOOR), ("cpu_per_1000", ECHO)]
            ratios = [results.ratio(row.name, name, f"{base}-{row.clients}") for name, base in pairs]
        else:
            ratios = [results.ratio(row.name, name, measured[0].name) for name in ("cpu_per_1000", "rate")]
        cells += [f"{ratio:.2f}" if ratio is not None else "" for ratio in ratios]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _memory(results: Results) -> str:
    lines = []
    for name, rounds in results.rounds.items():
        if not name.startswith(("idle-", "streams-")):
            continue
        for made in rounds:
            held = f"; {made['streams']:,} streams open, {made['bytes_per_stream']:,.0f} B each on top" if made["streams"] else ""
            if "bytes_in_redis" in made:
                held = f", and {made['bytes_in_redis']:,.0f} B each in Redis"
            lines.append(f"| {made['title']} | {made['sessions']:,} idle sessions, {made['bytes_per_session']:,.0f} B each{held} |")
    return "\n".join(["**Memory of all processes**", "", "| | |", "|---|---|", *lines]) if lines else ""


def _goals(results: Results, goals: list[Goal]) -> str:
    lines = []
    for goal in goals:
        if (reached := results.reached(goal)) is None:
            continue
        sign = ">=" if goal.least else "<="
        first, then, value = (_shown(number, goal.unit) for number in (goal.first, goal.then, reached[0]))
        lines.append(f"| {goal.title} | {sign} {first} | {sign} {then} | {value} | {reached[1]} |")
    head = ["**Goals**", "", "| | first | then | measured | reached |", "|---|--:|--:|--:|---|"]
    return "\n".join([*head, *lines]) if lines else ""


def _shown(number: float, unit: str) -> str:
    return f"{number:.2f} x" if unit == "x" else f"{number:,.0f} {unit}" if unit in ("B", "ms") else f"{number:,.0f}{unit}"


def write(results: Results, text: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.md").write_text(text, encoding="utf-8")
    medians = {row: {name: results.median(row, name) for name, value in rounds[0].items() if isinstance(value, int | float)} for row, rounds in results.rounds.items()}
    document = {"machine": results.machine, "medians": medians, "rounds": results.rounds}
    (folder / "bench.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def into_readme(found: dict[str, str], readme: Path) -> None:
    """Replaces what stands between the marks of each part that was measured."""
    whole = readme.read_text(encoding="utf-8")
    for part, text in found.items():
        begin, end = f"<!-- {part}:begin -->", f"<!-- {part}:end -->"
        head, first, rest = whole.partition(begin)
        _, last, tail = rest.partition(end)
        if not first or not last:
            raise SystemExit(f"{readme} has no place for it: {begin} .. {end}")
        whole = f"{head}{begin}\n\n{text}\n\n{end}{tail}"
    readme.write_text(whole, encoding="utf-8")
