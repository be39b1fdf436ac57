"""The Python client as the driver uses it: scripted answers, an inbox of notifications, a report of the checks."""

from __future__ import annotations

import traceback
from contextlib import asynccontextmanager

import anyio
import httpx2
import mcp_types as types
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

DEADLINE_S = 20
NOTIFICATIONS = {
    types.ResourceUpdatedNotification: "notifications/resources/updated",
    types.ToolListChangedNotification: "notifications/tools/list_changed",
    types.PromptListChangedNotification: "notifications/prompts/list_changed",
}


class Report:
    """Counts and prints the checks."""

    def __init__(self, mode: str):
        self.mode, self.passed, self.failed = mode, 0, 0

    async def check(self, name: str, body) -> None:
        try:
            with anyio.fail_after(DEADLINE_S):
                await body()
        except Exception:  # a driver reports every failure and goes on
            self.failure(name)
        else:
            self.success(name)

    def success(self, name: str) -> None:
        self.passed += 1
        print(f"ok python {self.mode} {name}", flush=True)

    def failure(self, name: str) -> None:
        """Reports the exception that is being handled."""
        self.failed += 1
        print(f"not ok python {self.mode} {name}", flush=True)
        print("  " + "\n  ".join(traceback.format_exc().splitlines()[-25:]), flush=True)


def same(found, wanted) -> None:
    """Asserts equality of whole values and shows both."""
    assert found == wanted, f"\n   found {found!r}\n  wanted {wanted!r}"


def plain(model) -> dict:
    """What was received, as JSON values."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def only(value: dict, like: dict) -> dict:
    """Keeps the members `like` has, so that additions of the server do not matter."""
    return {key: value.get(key) for key in like}


async def rejects(awaitable, code: int, data=None) -> None:
    try:
        result = await awaitable
    except MCPError as error:
        same(error.code, code)
        if data is not None:
            same(error.data, data)
    else:
        raise AssertionError(f"expected error {code}, got {result!r}")


class Inbox:
    """Notifications in the order of their arrival."""

    def __init__(self):
        self.unread: list[tuple[str, dict]] = []
        self.arrived = anyio.Event()

    def push(self, method: str, params: dict) -> None:
        self.unread.append((method, params))
        self.arrived.set()
        self.arrived = anyio.Event()

    async def next(self, method: str) -> dict:
        while True:
            for at, (arrived, params) in enumerate(self.unread):
                if arrived == method:
                    del self.unread[at]
                    return params
            await self.arrived.wait()

    def count(self, method: str) -> int:
        return sum(1 for arrived, _ in self.unread if arrived == method)


class Peer:
    """The client under test, with scripted answers to what the server asks."""

    def __init__(self, url: str, mode: str, *, answers: bool = True):
        self.url, self.mode, self.modern = url, mode, mode != "legacy"
        self.inbox, self.asked, self.answers = Inbox(), [], {}
        self.stream_open = anyio.Event()
        self.can_answer = answers

    async def _elicit(self, _context, params):
        self.asked.append(("elicitation/create", plain(params)))
        return self.answers["elicitation/create"](plain(params))

    async def _sample(self, _context, params):
        self.asked.append(("sampling/createMessage", plain(params)))
        return self.answers["sampling/createMessage"](plain(params))

    async def _roots(self, _context):
        self.asked.append(("roots/list", {}))
        return self.answers["roots/list"]({})

    async def _log(self, params) -> None:
        self.inbox.push("notifications/message", plain(params))

    async def _message(self, message) -> None:
        method = NOTIFICATIONS.get(type(message))
        if method is not None:
            self.inbox.push(method, plain(message).get("params", {}))

    async def _responded(self, response: httpx2.Response) -> None:
        if response.request.method == "GET" and response.status_code == 200:
            self.stream_open.set()

    @asynccontextmanager
    async def connected(self):
        timeout = httpx2.Timeout(30, read=300)
        hooks = {"response": [self._responded]}
        async with httpx2.AsyncClient(timeout=timeout, event_hooks=hooks) as http:
            callbacks = {}
            if self.can_answer:
                callbacks = {
                    "elicitation_callback": self._elicit,
                    "sampling_callback": self._sample,
                    "list_roots_callback": self._roots,
                }
            self.client = Client(
                streamable_http_client(self.url, http_client=http),
                mode=self.mode,
                logging_callback=self._log,
                message_handler=self._message,
                client_info=types.Implementation(name="trunkline-python-driver", version="1.0.0"),
                **callbacks,
            )
            async with self.client:
                yield self

    @asynccontextmanager
    async def watch(self, *, tools: bool = False, prompts: bool = False, resources: tuple[str, ...] = ()):
        """Opens whatever carries notifications in this era."""
        if self.modern:
            async with self.client.listen(
                tools_list_changed=tools, prompts_list_changed=prompts, resource_subscriptions=resources
            ) as subscription:
                same(subscription.honored.tools_list_changed or False, tools)
                same(subscription.honored.prompts_list_changed or False, prompts)
                same(tuple(subscription.honored.resource_subscriptions or ()), resources)
                yield
            return
        await self.stream_open.wait()
        for uri in resources:
            same(plain(await self.client.subscribe_resource(uri)), {})
        yield
        for uri in resources:
            same(plain(await self.client.unsubscribe_resource(uri)), {})

    async def text(self, name: str, arguments: dict, **options) -> str:
        result = await self.client.call_tool(name, arguments, **options)
        assert not result.is_error, f"{name} failed: {result.content!r}"
        same([block.type for block in result.content], ["text"])
        return result.content[0].text
