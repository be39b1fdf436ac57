"""What the strict twins are written with: a list of them, and comparisons that show both sides."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path

# What the fixtures have to say, as the client drivers expect it too.
FIXTURES = json.loads((Path(__file__).parents[1] / "clients" / "expected.json").read_text(encoding="utf-8"))

_twins: list[tuple[str, str, Callable[[str], None]]] = []


def twin(scenario: str):
    """Marks a function as the strict twin of a scenario of the suite."""

    def mark(body: Callable[[str], None]):
        _twins.append((body.__module__, scenario, body))
        return body

    return mark


def same(found, wanted) -> None:
    """Asserts equality of whole values and shows both."""
    assert found == wanted, f"\n   found {found!r}\n  wanted {wanted!r}"


def of(found: dict, wanted: dict) -> dict:
    """The part of `found` that `wanted` speaks of, two levels deep."""
    return {
        name: {key: found[name].get(key) for key in entry} if name in found else None for name, entry in wanted.items()
    }


def call_text(message: dict) -> str:
    """The one text of a successful answer to tools/call."""
    result = message.get("result")
    assert result and not result.get("isError"), message
    same([content["type"] for content in result["content"]], ["text"])
    return result["content"][0]["text"]


def run(url: str):
    """Runs every twin against `url`; yields its name and, where it fails, why."""
    for era, scenario, body in _twins:
        try:
            body(url)
        except Exception:  # a report goes on after a failure
            yield f"{era} twin of {scenario}", "".join(traceback.format_exc(limit=-4))
        else:
            yield f"{era} twin of {scenario}", None
