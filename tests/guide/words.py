"""Compares what the pages name with what there is: settings, metrics, alerts, and lines of logs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"`([^`]+)`")
# A setting as it is written: section.key, perhaps with a value.
SETTING = re.compile(r"^([a-z-]+)\.([a-z][a-z0-9_]*)(?: = .*)?$")
METRIC = re.compile(r"^((?:trunkline|mcp|rpc)_[a-z_]+)(?:\{.*\})?$")
ALERT = re.compile(r"^[A-Z][a-z]+(?:[A-Z][a-z]+)+$")
LINE = re.compile(r"^(?:TLS )?[a-z'][a-z', ]+ [a-z']+ [a-z', ]+$")


def settings() -> set[tuple[str, str]]:
    """All keys, as the file of examples has them."""
    found, section = set(), ""
    for line in (ROOT / "trunkline.example.toml").read_text(encoding="utf-8").splitlines():
        if head := re.match(r"\[([a-z-]+)\]$", line):
            section = head[1]
        elif key := re.match(r"(?:# )?([a-z][a-z0-9_]*) =", line):
            found.add((section, key[1]))
    return found


def named(page: Path) -> list[str]:
    """What a page sets apart as code in its text, with line breaks as spaces."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in CODE.findall(text)]


def wrong(page: Path) -> list[str]:
    """What a page names that there is not."""
    known = settings()
    sections = {section for section, _ in known}
    alerts = set(re.findall(r"- alert: (\w+)", (ROOT / "compose" / "prometheus" / "rules.yml").read_text(encoding="utf-8")))
    metrics = {metric[1] for word in named(ROOT / "docs" / "watching.md") if (metric := METRIC.match(word))}
    found = []
    for word in named(page):
        setting, metric = SETTING.match(word), METRIC.match(word)
        if setting and setting[1] in sections and setting.groups() not in known:
            found.append(f"the setting {word}")
        if metric and page.name != "watching.md" and metric[1] not in metrics:
            found.append(f"the metric {word}")
        if ALERT.match(word) and page.name == "runbooks.md" and word not in alerts:
            found.append(f"the alert {word}")
        line = word.split(" code=")[0]
        if LINE.match(line) and page.name == "runbooks.md" and line not in said():
            found.append(f"the line {word}")
    return found


def said() -> str:
    """All that the sources hold."""
    if not hasattr(said, "text"):
        folders = [ROOT / "libs", ROOT / "services"]
        said.text = "\n".join(file.read_text(encoding="utf-8") for folder in folders for file in folder.rglob("*.rs"))
    return said.text


def check() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = [f"{page.name} names {what}, which there is not" for page in pages for what in wrong(page)]
    assert not found, "\n  ".join(["", *found])
