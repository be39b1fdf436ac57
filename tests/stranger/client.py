"""Uses the registry in this folder through a mesh, with the official Python client: python client.py URL MODE

Prints `ok|not ok python MODE CHECK` for every check and `N passed, N failed` at the end.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import anyio
import mcp_types as types
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "clients"))

from peer import Peer, Report, plain, rejects, same  # noqa: E402

MOTTO = "stranger://motto"


async def listing(peer: Peer, report: Report) -> None:
    client = peer.client

    async def tools():
        found = {tool.name: plain(tool) for tool in (await client.list_tools()).tools}
        names = [name for name in found if name.startswith("stranger__")]
        same(names, [f"stranger__{name}" for name in ("count", "greet", "hold", "reverse")])
        same(found["stranger__reverse"]["inputSchema"]["required"], ["text"])

    async def resources():
        found = [plain(one) for one in (await client.list_resources()).resources if str(one.uri) == MOTTO]
        same(found, [{"uri": MOTTO, "name": "Motto", "mimeType": "text/plain"}])

    async def prompts():
        found = [plain(one) for one in (await client.list_prompts()).prompts if one.name == "stranger__haiku"]
        same(found, [{"name": "stranger__haiku", "arguments": [{"name": "topic", "required": True}]}])

    for name, body in [("list tools", tools), ("list resources", resources), ("list prompts", prompts)]:
        await report.check(name, body)


async def using(peer: Peer, report: Report) -> None:
    client = peer.client

    async def call():
        same(await peer.text("stranger__reverse", {"text": "Grüße 🦊"}), "🦊 eßürG")

    async def parallel():
        back = {}

        async def one(n: int):
            back[n] = await peer.text("stranger__reverse", {"text": f"call {n}"})

        async with anyio.create_task_group() as group:
            for n in range(16):
                group.start_soon(one, n)
        same(back, {n: f"call {n}"[::-1] for n in range(16)})

    async def wrong_input():
        await rejects(client.call_tool("stranger__reverse", {}), -32602)

    async def unknown():
        await rejects(client.call_tool("stranger__no_such_tool", {}), -32602)

    async def progress():
        seen = []

        async def on_progress(done, _total, _message):
            seen.append(done)

        same(await peer.text("stranger__count", {}, progress_callback=on_progress), "1, 2, 3")
        same(seen, [1, 2, 3])

    async def cancel():
        held = anyio.Event()

        async def on_progress(_done, _total, _message):
            held.set()

        async def hold():
            await client.call_tool("stranger__hold", {}, progress_callback=on_progress)
            raise AssertionError("the call was answered")

        async with anyio.create_task_group() as group:
            group.start_soon(hold)
            await held.wait()
            group.cancel_scope.cancel()
        same(await peer.text("stranger__reverse", {"text": "still here"}), "ereh llits")

    async def read():
        wanted = {"uri": MOTTO, "mimeType": "text/plain", "text": "Everyone is a stranger somewhere."}
        same(plain(await client.read_resource(MOTTO))["contents"], [wanted])

    async def get():
        messages = plain(await client.get_prompt("stranger__haiku", {"topic": "snow"}))["messages"]
        same(messages, [{"role": "user", "content": {"type": "text", "text": "A haiku about snow"}}])

    async def missing():
        await rejects(client.get_prompt("stranger__haiku", {}), -32602)

    async def complete():
        prompt = types.PromptReference(type="ref/prompt", name="stranger__haiku")
        completion = (await client.complete(prompt, {"name": "topic", "value": "s"})).completion
        same(completion.values, ["sea", "snow", "stone"])

    for name, body in [
        ("call", call),
        ("calls in parallel", parallel),
        ("call without its argument", wrong_input),
        ("call unknown tool", unknown),
        ("progress", progress),
        ("cancel", cancel),
        ("read", read),
        ("get", get),
        ("get without its argument", missing),
        ("complete", complete),
    ]:
        await report.check(name, body)


async def asking(peer: Peer, report: Report) -> None:
    for action, content, wanted in [
        ("accept", {"name": "Ada"}, "Hello, Ada!"),
        ("decline", None, "Hello, stranger!"),
        ("cancel", None, "Hello, stranger!"),
    ]:

        async def body(action=action, content=content, wanted=wanted):
            answer = types.ElicitResult(action=action, content=content)
            peer.answers["elicitation/create"] = lambda _: answer
            same(await peer.text("stranger__greet", {}), wanted)
            _, params = peer.asked.pop()
            same(params["message"], "Who are you?")

        await report.check(f"ask, {action}", body)

    async def cannot_answer():
        async with Peer(peer.url, peer.mode, answers=False).connected() as silent:
            try:
                result = await silent.client.call_tool("stranger__greet", {})
            except MCPError as error:
                same(error.code, -32021 if peer.modern else error.code)
            else:
                raise AssertionError(f"answered {result!r}")

    async def nothing_else():
        same(peer.asked, [])

    await report.check("nothing else was asked", nothing_else)
    await report.check("asking a client that cannot answer", cannot_answer)


async def main(url: str, mode: str) -> int:
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    report = Report(mode)
    parts = [listing, using, asking]
    try:
        async with Peer(url, mode).connected() as peer:
            while parts:
                await parts.pop(0)(peer, report)
    except Exception:
        report.failure("connect" if parts else "close")
    else:
        report.success("connect and close")
    print(f"{report.passed} passed, {report.failed} failed", flush=True)
    return 0 if report.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(anyio.run(main, sys.argv[1], sys.argv[2]))
