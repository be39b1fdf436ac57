"""Asks a Jaeger page for traces, as the page itself does."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

# Spans are sent in batches, every few seconds.
LISTED_S = 30
LOOK_S = 0.05


@dataclass
class Span:
    """What is compared of a span."""

    service: str
    name: str
    trace: str
    id: str
    parent: str | None
    # Spans that it goes on from.
    links: list[str]
    tags: dict
    micros: int


class Trace:
    """The spans of one trace."""

    def __init__(self, data: dict):
        services = {key: process["serviceName"] for key, process in data["processes"].items()}
        self.id = data["traceID"]
        self.spans = [_span(span, services) for span in data["spans"]]

    def services(self) -> list[str]:
        return sorted({span.service for span in self.spans})

    def roots(self) -> list[Span]:
        """Spans without a parent among the others."""
        known = {span.id for span in self.spans}
        return [span for span in self.spans if span.parent not in known]

    def path(self, span: Span) -> list[Span]:
        """From the root inwards to `span`."""
        by_id, path = {span.id: span for span in self.spans}, [span]
        while (above := by_id.get(path[0].parent)) is not None:
            path.insert(0, above)
        return path

    def of(self, service: str) -> list[Span]:
        return [span for span in self.spans if span.service == service]

    def __str__(self) -> str:
        paths = (" > ".join(f"{hop.service} {hop.name}" for hop in self.path(span)) for span in self.spans)
        return "\n  ".join([f"trace {self.id}:", *sorted(paths)])


def _span(span: dict, services: dict) -> Span:
    references = span["references"] or []
    parents = [link["spanID"] for link in references if link["refType"] == "CHILD_OF"]
    return Span(
        service=services[span["processID"]],
        name=span["operationName"],
        trace=span["traceID"],
        id=span["spanID"],
        parent=parents[0] if parents else None,
        links=[link["spanID"] for link in references if link["refType"] == "FOLLOWS_FROM"],
        tags={tag["key"]: tag["value"] for tag in span["tags"]},
        micros=span["duration"],
    )


class Page:
    """A Jaeger page at a URL."""

    def __init__(self, url: str):
        self.url = url

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read()

    def listed(self, service: str = "trunkline-gateway") -> list[Trace]:
        """Complete traces that began in a service, the newest first."""
        data = json.loads(self.get(f"/api/traces?limit=1000&service={service}"))["data"]
        return [Trace(trace) for trace in data]

    def trace(self, id: str) -> list[Trace]:
        """The trace of that id, complete or not; nothing if none of it is there."""
        try:
            return [Trace(trace) for trace in json.loads(self.get(f"/api/traces/{id}"))["data"]]
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return []

    def find(self, look, fits, what: str) -> Trace:
        """Waits until one of the traces that `look` sees fits."""
        end, seen = time.monotonic() + LISTED_S, []
        while time.monotonic() < end:
            seen = look()
            for trace in seen:
                if fits(trace):
                    return trace
            time.sleep(LOOK_S)
        raise AssertionError("\n".join([f"no trace of {what} in {LISTED_S} s; there are", *map(str, seen)]))
