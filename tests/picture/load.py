"""Clients that keep a mesh busy: calls of both eras, sessions that come and go, open streams, refusals."""

from __future__ import annotations

import threading
from http.client import HTTPException
from itertools import count
from os import urandom

import wire

# The trace page keeps the newest traces only; those of one request in so many are enough to watch.
RECORDED = 20
PAUSE_S = 0.04
READ = {"name": "read", "arguments": {"op": "picture", "session": "picture"}}
ADD = {"name": "calculator", "arguments": {"operation": "add", "a": 2, "b": 40}}
BY_ZERO = {"name": "calculator", "arguments": {"operation": "divide", "a": 2, "b": 0}}
WELCOME = {"uri": "file:///docs/welcome.md"}
GREET = {"name": "greet", "arguments": {"who": "Ada"}}
MODERN = [
    ("tools/call", READ),
    ("tools/call", ADD),
    ("resources/read", WELCOME),
    ("tools/call", READ),
    ("prompts/get", GREET),
    ("tools/list", {}),
    ("tools/call", BY_ZERO),
]
OLDER = [("tools/call", ADD), ("resources/read", WELCOME), ("tools/call", READ), ("prompts/get", GREET)]


class Load:
    """Goes on from when it is entered until it is left."""

    def __init__(self, url: str):
        self.url, self.sent, self.failed = url, count(), 0
        self._over = threading.Event()
        works = [self.modern, self.older, self.older, self.visits, self.streams, self.refused]
        self._threads = [threading.Thread(target=self._run, args=(work,), daemon=True) for work in works]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exc) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(wire.READ_S)

    def wait(self, seconds: float) -> None:
        self._over.wait(seconds)

    def _run(self, work) -> None:
        """One that fails begins again: owners are killed here."""
        while not self._over.is_set():
            try:
                work()
            except (OSError, HTTPException, AssertionError, KeyError, IndexError):
                self.failed += 1
            self.wait(PAUSE_S)

    def trace(self) -> dict[str, str]:
        """The caller's trace, which says whether it is recorded."""
        recorded = next(self.sent) % RECORDED == 0
        return {"traceparent": f"00-{urandom(16).hex()}-{urandom(8).hex()}-0{recorded:d}"}

    def rounds(self, asked: list[tuple[str, dict]]):
        while True:
            for one in asked:
                if self._over.is_set():
                    return
                yield one
                self.wait(PAUSE_S)

    def modern(self) -> None:
        for method, params in self.rounds(MODERN):
            message = wire.modern_request(method, params)
            wire.post(self.url, message, {**wire.modern_headers(message), **self.trace()}).messages()

    def older(self) -> None:
        session = wire.Session(self.url).open()
        for method, params in self.rounds(OLDER):
            wire.post(self.url, wire.request(method, params), {**session.headers(), **self.trace()}).messages()

    def visits(self) -> None:
        """A session that begins, makes a call, and ends or is left behind."""
        session = wire.Session(self.url).open()
        wire.post(self.url, wire.request("tools/call", ADD), {**session.headers(), **self.trace()}).messages()
        if next(self.sent) % 2:
            session.delete().body()
        self.wait(0.3)

    def streams(self) -> None:
        """Streams that are held until the end."""
        held = [wire.Session(self.url).open().get() for _ in range(6)]
        self._over.wait()
        for stream in held:
            stream.close()

    def refused(self) -> None:
        """What gateways do not let in: a page of another origin, a session that does not exist."""
        message = wire.modern_request("tools/list")
        wire.post(self.url, message, {**wire.modern_headers(message), "Origin": "https://example.org"}).body()
        wire.post(self.url, wire.request("tools/list"), {"Mcp-Session-Id": "none", **self.trace()}).body()
        self.wait(0.5)
