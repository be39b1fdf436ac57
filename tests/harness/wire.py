"""A raw MCP client over HTTP: sends exactly what it is told and shows exactly what comes back.

Standard library only. It keeps no rule of the protocol by itself, so that tests can break each of them.
"""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import urlsplit

READ_S = 20
MODERN = "2026-07-28"
PROTOCOL = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
CLIENT = "io.modelcontextprotocol/clientInfo"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}

_ids = count(1)


@dataclass
class Event:
    """One event of a stream, or a comment."""

    id: str | None = None
    name: str = "message"
    data: str | None = None
    retry: int | None = None
    comment: str | None = None


class Answer:
    """An HTTP answer whose body is read when it is asked for."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse):
        self._connection, self._response = connection, response
        self.status = response.status
        self.headers = response.headers
        self.type = (response.headers.get("content-type") or "").split(";")[0]

    def body(self) -> bytes:
        try:
            return self._response.read()
        finally:
            self.close()

    def json(self):
        body = self.body()
        assert self.type == "application/json", f"{self.status} {self.type}: {body!r}"
        return json.loads(body)

    def event(self) -> Event | None:
        """Reads the next event or comment of a stream; nothing at its end."""
        assert self.type == "text/event-stream", f"{self.status} {self.type}: {self.body()!r}"
        event, seen = Event(), False
        for raw in iter(self._response.readline, b""):
            line = raw.decode().rstrip("\r\n")
            if line == "" and seen:
                return event
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            seen = seen or line != ""
            if line.startswith(":"):
                event.comment = value
            elif name == "id":
                event.id = value
            elif name == "event":
                event.name = value
            elif name == "data":
                event.data = value if event.data is None else f"{event.data}\n{value}"
            elif name == "retry":
                event.retry = int(value)
        return None

    def message(self) -> dict | None:
        """The next JSON-RPC message, whichever form the answer has; nothing at its end."""
        if self.type != "text/event-stream":
            return None if self._response.isclosed() else self.json()
        while (event := self.event()) is not None:
            if event.data:
                return json.loads(event.data)
        return None

    def messages(self) -> list[dict]:
        """All messages up to the end."""
        if self.type != "text/event-stream":
            return [self.json()]
        return list(iter(self.message, None))

    def close(self) -> None:
        self._connection.close()


def send(url: str, method: str, body: bytes | None, headers: dict[str, str]) -> Answer:
    """Sends one HTTP request on a connection of its own."""
    target = urlsplit(url)
    connection = http.client.HTTPConnection(target.hostname, target.port, timeout=READ_S)
    connection.putrequest(method, target.path, skip_host="Host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    return Answer(connection, connection.getresponse())


def request(method: str, params: dict | None = None, id=None) -> dict:
    """A JSON-RPC request with an id of its own unless one is given."""
    message = {"jsonrpc": "2.0", "id": next(_ids) if id is None else id, "method": method}
    return message if params is None else {**message, "params": params}


BOTH = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


def post(url: str, message, headers: dict[str, str]) -> Answer:
    return send(url, "POST", json.dumps(message).encode(), {**BOTH, **headers})


def modern_request(method: str, params: dict | None = None, *, capabilities: dict | None = None, id=None) -> dict:
    """A request of 2026-07-28 with all that its `_meta` needs."""
    meta = {
        PROTOCOL: MODERN,
        CAPABILITIES: {"elicitation": {}, "sampling": {}, "roots": {}} if capabilities is None else capabilities,
        CLIENT: {"name": "wire", "version": "1.0.0"},
    }
    params = params or {}
    return request(method, {**params, "_meta": {**meta, **params.get("_meta", {})}}, id)


def modern_headers(message: dict) -> dict[str, str]:
    """The headers that mirror a request of 2026-07-28."""
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": message["method"]}
    if message["method"] in NAMED:
        headers["Mcp-Name"] = message["params"][NAMED[message["method"]]]
    return headers


def modern(url: str, method: str, params: dict | None = None, **options) -> Answer:
    """Sends a correct request of 2026-07-28."""
    message = modern_request(method, params, **options)
    return post(url, message, modern_headers(message))


@dataclass
class Session:
    """A session of an older revision."""

    url: str
    revision: str = "2025-11-25"
    capabilities: dict = field(default_factory=lambda: {"elicitation": {}, "sampling": {}, "roots": {}})
    id: str | None = None
    initialized: dict = field(default_factory=dict)

    def open(self) -> Session:
        params = {
            "protocolVersion": self.revision,
            "capabilities": self.capabilities,
            "clientInfo": {"name": "wire", "version": "1.0.0"},
        }
        answer = post(self.url, request("initialize", params), {})
        assert answer.status == 200, (answer.status, answer.body())
        self.id = answer.headers["mcp-session-id"]
        self.initialized = answer.messages()[-1]["result"]
        self.revision = self.initialized["protocolVersion"]
        accepted = self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert (accepted.status, accepted.body()) == (202, b""), accepted.status
        return self

    def headers(self) -> dict[str, str]:
        headers = {"Mcp-Session-Id": self.id}
        if self.revision >= "2025-06-18":
            headers["MCP-Protocol-Version"] = self.revision
        return headers

    def post(self, message) -> Answer:
        return post(self.url, message, self.headers())

    def send(self, method: str, params: dict | None = None, id=None) -> Answer:
        """Sends a request; its answer may be one JSON value or a stream."""
        return self.post(request(method, params, id))

    def result(self, method: str, params: dict | None = None) -> dict:
        """The result of a request, whatever came before it."""
        message = self.send(method, params).messages()[-1]
        assert "result" in message, message
        return message["result"]

    def get(self, last_event_id: str | None = None) -> Answer:
        headers = {"Accept": "text/event-stream", **self.headers()}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        return send(self.url, "GET", None, headers)

    def delete(self) -> Answer:
        return send(self.url, "DELETE", None, self.headers())
