"""Drives one MCP endpoint with the official Python client: python drive.py URL legacy|auto|2026-07-28

Prints `ok|not ok python MODE CHECK` for every check and `N passed, N failed` at the end; exits 0 only without failures.
What the endpoint has to say stands in expected.json, which the TypeScript driver reads too.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
import warnings
from pathlib import Path

import anyio
import mcp_types as types
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from peer import Peer, Report, only, plain, rejects, same

EXPECTED = json.loads((Path(__file__).parent / "expected.json").read_text(encoding="utf-8"))
LOG_LEVEL = "io.modelcontextprotocol/logLevel"


def listed(entries: list, key: str, wanted: dict) -> list[str]:
    entries = [plain(entry) for entry in entries]
    names = [entry[key] for entry in entries]
    same(len(set(names)), len(names))
    for name, entry in wanted.items():
        assert name in names, f"{name} is not listed among {names}"
        same(only(entries[names.index(name)], entry), entry)
    return names


async def connecting(peer: Peer, report: Report) -> None:
    async def connect():
        client = peer.client
        same(client.protocol_version, "2026-07-28" if peer.modern else "2025-11-25")
        if peer.mode == "2026-07-28":
            return  # a pinned client sends nothing before its first request
        same(client.server_info.name, EXPECTED["server"])
        capabilities = client.server_capabilities
        same(capabilities.tools.list_changed, True)
        same(capabilities.prompts.list_changed, True)
        same(capabilities.resources.list_changed, True)
        same(capabilities.resources.subscribe, True)
        assert capabilities.completions is not None

    await report.check("connect", connect)


async def listing(peer: Peer, report: Report) -> None:
    client = peer.client

    async def tools():
        names = listed((await client.list_tools()).tools, "name", EXPECTED["tools"])
        same(names, sorted(names))

    async def resources():
        listed((await client.list_resources()).resources, "uri", EXPECTED["resources"])

    async def templates():
        found = (await client.list_resource_templates()).resource_templates
        listed(found, "uriTemplate", EXPECTED["templates"])

    async def prompts():
        listed((await client.list_prompts()).prompts, "name", EXPECTED["prompts"])

    async def bad_cursor():
        await rejects(client.list_tools(cursor="no such cursor"), -32602)

    for name, body in [
        ("list tools", tools),
        ("list resources", resources),
        ("list templates", templates),
        ("list prompts", prompts),
        ("list refuses a bad cursor", bad_cursor),
    ]:
        await report.check(name, body)


async def calling(peer: Peer, report: Report) -> None:
    client = peer.client
    for call in EXPECTED["calls"]:

        async def body(call=call):
            result = plain(await client.call_tool(call["name"], call.get("arguments")))
            wanted = dict(call["result"])
            same(result.get("isError", False), wanted.pop("isError", False))
            same(only(result, wanted), wanted)

        await report.check(call["check"], body)

    async def unknown():
        await rejects(client.call_tool("no_such_tool", {}), -32602)

    async def wrong_input():
        result = await client.call_tool("calculator", {"operation": "add", "a": "one", "b": 2})
        same(result.is_error, True)
        same(result.content[0].type, "text")

    async def parallel():
        sent = [f"call {n}" for n in range(24)]
        back = [""] * len(sent)

        async def one(n: int):
            back[n] = json.loads(await peer.text("echo", {"message": sent[n]}))["echo"]

        async with anyio.create_task_group() as group:
            for n in range(len(sent)):
                group.start_soon(one, n)
        same(back, sent)

    await report.check("call unknown tool", unknown)
    await report.check("call with wrong input", wrong_input)
    await report.check("calls in parallel", parallel)


async def fetching(peer: Peer, report: Report) -> None:
    client = peer.client
    for read in EXPECTED["reads"]:

        async def body(read=read):
            same(plain(await client.read_resource(read["uri"]))["contents"], read["contents"])

        await report.check(read["check"], body)

    async def unknown_resource():
        uri = "test://no-such-resource"
        await rejects(client.read_resource(uri), -32602 if peer.modern else -32002, {"uri": uri})

    await report.check("read unknown resource", unknown_resource)
    for get in EXPECTED["gets"]:

        async def body(get=get):
            same(plain(await client.get_prompt(get["name"], get.get("arguments")))["messages"], get["messages"])

        await report.check(get["check"], body)

    async def unknown_prompt():
        await rejects(client.get_prompt("no_such_prompt"), -32602)

    async def missing_argument():
        await rejects(client.get_prompt("test_prompt_with_arguments", {"arg1": "x"}), -32602)

    await report.check("get unknown prompt", unknown_prompt)
    await report.check("get without an argument", missing_argument)
    for wanted in EXPECTED["completions"]:

        async def body(wanted=wanted):
            kinds = {"ref/prompt": types.PromptReference, "ref/resource": types.ResourceTemplateReference}
            ref = kinds[wanted["ref"]["type"]].model_validate(wanted["ref"])
            completion = (await client.complete(ref, wanted["argument"], wanted.get("context"))).completion
            same(completion.values, wanted["values"])
            assert not completion.has_more

        await report.check(wanted["check"], body)


async def running(peer: Peer, report: Report) -> None:
    client = peer.client

    async def progress():
        seen = []

        async def on_progress(done, total, _message):
            seen.append((done, total))

        text = await peer.text("test_tool_with_progress", {}, progress_callback=on_progress)
        same(seen, [(0, 100), (50, 100), (100, 100)])
        same(text, "Progress reported")

    async def logged(level: str) -> None:
        meta = {LOG_LEVEL: level} if peer.modern else None
        if not peer.modern:
            same(plain(await client.set_logging_level(level)), {})
        await client.call_tool("test_tool_with_logging", {}, meta=meta)

    async def log():
        await logged("info")
        for data in EXPECTED["logs"]:
            message = await peer.inbox.next("notifications/message")
            same(only(message, {"level": "", "data": ""}), {"level": "info", "data": data})
        same(peer.inbox.count("notifications/message"), 0)

    async def quiet():
        await logged("warning")
        same(peer.inbox.count("notifications/message"), 0)

    async def cancel():
        label = str(uuid.uuid4())
        held = anyio.Event()

        async def on_progress(_done, _total, message):
            same(message, f"holding {label}")
            held.set()

        async def call():
            await client.call_tool("hold", {"label": label}, progress_callback=on_progress)
            raise AssertionError("the call was answered")

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await held.wait()
            group.cancel_scope.cancel()
        same(await peer.text("was_cancelled", {"label": label}), "true")

    async def ping():
        same(plain(await client.send_ping()), {})

    await report.check("progress", progress)
    await report.check("log", log)
    await report.check("log below the level is not sent", quiet)
    await report.check("cancel", cancel)
    if not peer.modern:
        await report.check("ping", ping)


def accept(content: dict | None = None):
    return lambda _params: types.ElicitResult(action="accept", content=content)


def sampled(text: str):
    content = types.TextContent(type="text", text=text)
    return types.CreateMessageResult(role="assistant", model="driver", content=content)


async def eliciting(peer: Peer, report: Report) -> None:
    schema = {
        "type": "object",
        "properties": {
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"},
        },
        "required": ["username", "email"],
    }
    for action, content in [
        ("accept", {"username": "ada", "email": "ada@example.org"}),
        ("decline", None),
        ("cancel", None),
    ]:

        async def body(action=action, content=content):
            peer.answers["elicitation/create"] = lambda _: types.ElicitResult(action=action, content=content)
            text = await peer.text("test_elicitation", {"message": "Who are you?"})
            _, params = peer.asked.pop()
            same(params["message"], "Who are you?")
            same(params.get("mode", "form"), "form")
            same(params["requestedSchema"], schema)
            match = re.fullmatch(r"User response: action=(\w+), content=(.*)", text)
            assert match, text
            same(match[1], action)
            same(json.loads(match[2]), content)

        await report.check(f"elicitation {action}", body)

    async def url():
        peer.answers["elicitation/create"] = accept()
        same(await peer.text("ask_link", {}), "Link: accept")
        _, params = peer.asked.pop()
        same(params["mode"], "url")
        same(params["url"], "https://example.com/authorise?for=trunkline")
        same(params["message"], "Please authorise the test")
        same("elicitationId" in params, not peer.modern)

    async def defaults():
        peer.answers["elicitation/create"] = lambda _: types.ElicitResult(action="decline")
        await peer.text("test_elicitation_sep1034_defaults", {})
        properties = peer.asked.pop()[1]["requestedSchema"]["properties"]
        found = {name: field["default"] for name, field in properties.items()}
        same(found, {"name": "John Doe", "age": 30, "score": 95.5, "status": "active", "verified": True})

    await report.check("elicitation url", url)
    await report.check("elicitation defaults", defaults)


async def asking(peer: Peer, report: Report) -> None:
    async def sampling():
        peer.answers["sampling/createMessage"] = lambda params: sampled(
            f"you said {params['messages'][0]['content']['text']}"
        )
        same(await peer.text("test_sampling", {"prompt": "hello"}), "LLM response: you said hello")
        _, params = peer.asked.pop()
        same(params["maxTokens"], 100)
        same(params["messages"], [{"role": "user", "content": {"type": "text", "text": "hello"}}])

    async def roots():
        root = types.Root(uri="file:///driver", name="Driver")
        peer.answers["roots/list"] = lambda _: types.ListRootsResult(roots=[root])
        same(await peer.text("test_input_required_result_list_roots", {}), "Roots: file:///driver")
        same(peer.asked.pop()[0], "roots/list")

    async def three():
        peer.answers["elicitation/create"] = accept({"name": "Ada"})
        peer.answers["sampling/createMessage"] = lambda _: sampled("Good morning")
        text = await peer.text("test_input_required_result_multiple_inputs", {})
        same(text, "Good morning, Ada! Roots: file:///driver")
        asked = sorted(method for method, _ in peer.asked)
        same(asked, ["elicitation/create", "roots/list", "sampling/createMessage"])
        peer.asked.clear()

    async def rounds():
        def answer(params):
            named = "name" in params["requestedSchema"]["properties"]
            return types.ElicitResult(action="accept", content={"name": "Ada"} if named else {"color": "blue"})

        peer.answers["elicitation/create"] = answer
        same(await peer.text("test_input_required_result_multi_round", {}), "Ada likes blue")
        messages = [params["message"] for _, params in peer.asked]
        same(messages, ["Step 1: What is your name?", "Step 2: What is your favorite color?"])
        peer.asked.clear()

    async def prompt():
        peer.answers["elicitation/create"] = accept({"context": "the sea"})
        result = plain(await peer.client.get_prompt("test_input_required_result_prompt"))
        wanted = [{"role": "user", "content": {"type": "text", "text": "Use this context: the sea"}}]
        same(result["messages"], wanted)
        same(peer.asked.pop()[1]["message"], "What context should the prompt use?")

    async def nothing_else():
        same(peer.asked, [])

    async def cannot_answer():
        async with Peer(peer.url, peer.mode, answers=False).connected() as silent:
            try:
                result = await silent.client.call_tool("test_elicitation", {"message": "Anybody?"})
                outcome = "error" if result.is_error else f"answered {result.content!r}"
            except MCPError as error:
                outcome = error.code if peer.modern else "error"
            same(outcome, -32021 if peer.modern else "error")

    await report.check("sampling", sampling)
    await report.check("roots", roots)
    await report.check("three questions at once", three)
    await report.check("two rounds", rounds)
    await report.check("prompt that asks", prompt)
    await report.check("nothing else was asked", nothing_else)
    await report.check("asking a client that cannot answer", cannot_answer)


async def subscribing(peer: Peer, report: Report) -> None:
    client, updated = peer.client, "notifications/resources/updated"
    watched, neighbour = "test://watched-resource", "test://watched-neighbour"

    async def resource():
        async with peer.watch(resources=(watched,)):
            revision = await peer.text("touch", {"uri": watched})
            same((await peer.inbox.next(updated))["uri"], watched)
            result = await client.read_resource(watched, cache_mode="refresh")
            same(result.contents[0].text, f"revision {revision}")

    async def silent():
        async with peer.watch(resources=(neighbour,)):
            await peer.text("touch", {"uri": watched})
            await peer.text("touch", {"uri": neighbour})
            same((await peer.inbox.next(updated))["uri"], neighbour)
            same(peer.inbox.count(updated), 0)

    async def unknown():
        uri = "test://no-such-resource"
        if not peer.modern:
            await rejects(client.subscribe_resource(uri), -32002, {"uri": uri})
            return
        async with client.listen(resource_subscriptions=[uri]) as subscription:
            same(subscription.honored.resource_subscriptions or [], [])

    await report.check("resource updated", resource)
    await report.check("unsubscribed resource stays silent", silent)
    await report.check("subscribing to an unknown resource", unknown)

    async def tools() -> list[str]:
        return [tool.name for tool in (await client.list_tools()).tools]

    async def prompts() -> list[str]:
        return [prompt.name for prompt in (await client.list_prompts()).prompts]

    for kind, trigger, dynamic, names in [
        ("tools", "test_trigger_tool_change", "test_dynamic_tool", tools),
        ("prompts", "test_trigger_prompt_change", "test_dynamic_prompt", prompts),
    ]:

        async def body(kind=kind, trigger=trigger, dynamic=dynamic, names=names):
            changed = f"notifications/{kind}/list_changed"
            async with peer.watch(**{kind: True}):
                before = dynamic in await names()
                for now in (not before, before):
                    await peer.text(trigger, {})
                    await peer.inbox.next(changed)
                    same(dynamic in await names(), now)
                same(peer.inbox.count(changed), 0)

        await report.check(f"{kind} list changed", body)


async def main(url: str, mode: str) -> int:
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    report = Report(mode)
    parts = [connecting, listing, calling, fetching, running, eliciting, asking, subscribing]
    try:
        async with Peer(url, mode).connected() as peer:
            while parts:
                await parts.pop(0)(peer, report)
    except Exception:
        report.failure("connect" if parts else "close")
    else:
        report.success("close")
    print(f"{report.passed} passed, {report.failed} failed", flush=True)
    return 0 if report.failed == 0 else 1


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in ("legacy", "auto", "2026-07-28"):
        sys.exit("usage: drive.py URL legacy|auto|2026-07-28")
    sys.exit(anyio.run(main, sys.argv[1], sys.argv[2]))
