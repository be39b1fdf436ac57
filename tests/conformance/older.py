"""Strict twins of the suite's checks at 2025-11-25: whole values where the suite looks for presence only."""

from __future__ import annotations

import re

from twin import FIXTURES, call_text, of, same, twin
from wire import Session, post, request, send

SESSION_ID = re.compile(r"v1\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
NOT_FOUND = {"code": -32600, "message": "Session not found"}


def opened(url: str, **options) -> Session:
    return Session(url, **options).open()


@twin("server-initialize")
def initialize(url: str) -> None:
    for asked, given in [
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ]:
        session = opened(url, revision=asked)
        found = session.initialized
        same(found["protocolVersion"], given)
        same(found["serverInfo"]["name"], FIXTURES["server"])
        same(
            {name: found["capabilities"][name] for name in ("tools", "prompts", "resources", "logging", "completions")},
            {
                "tools": {"listChanged": True},
                "prompts": {"listChanged": True},
                "resources": {"listChanged": True, "subscribe": True},
                "logging": {},
                "completions": {},
            },
        )
        assert "resultType" not in found and "_meta" not in found, found
        assert SESSION_ID.fullmatch(session.id), session.id


@twin("server-session-lifecycle")
def lifecycle(url: str) -> None:
    session = opened(url)
    same(session.result("ping"), {})
    deleted = session.delete()
    assert deleted.status in (200, 204), deleted.status
    deleted.close()
    for answer in (session.send("ping", id=5), session.delete(), session.get()):
        same(answer.status, 404)
        found = answer.json()
        same(found["error"], NOT_FOUND)
    missing = post(url, request("ping", id="a"), {})
    same((missing.status, missing.json()["error"]["code"]), (400, -32600))
    forged = session.id[:-1] + ("A" if session.id[-1] != "A" else "B")
    answer = post(url, request("ping"), {"Mcp-Session-Id": forged})
    same((answer.status, answer.json()["error"]), (404, NOT_FOUND))


@twin("ping, logging-set-level")
def empty_results(url: str) -> None:
    session = opened(url)
    same(session.send("ping", id="p").json(), {"jsonrpc": "2.0", "id": "p", "result": {}})
    answer = session.send("logging/setLevel", {"level": "info"}, id=7).json()
    same(answer, {"jsonrpc": "2.0", "id": 7, "result": {}})
    refused = session.send("logging/setLevel", {"level": "loud"})
    same((refused.status, refused.messages()[-1]["error"]["code"]), (200, -32602))


@twin("completion-complete")
def completion(url: str) -> None:
    session = opened(url)
    for wanted in FIXTURES["completions"]:
        params = {"ref": wanted["ref"], "argument": wanted["argument"]}
        if "context" in wanted:
            params["context"] = {"arguments": wanted["context"]}
        same(session.result("completion/complete", params)["completion"]["values"], wanted["values"])


@twin("tools-call-simple-text, -image, -audio, -embedded-resource, -mixed-content, -error")
def contents(url: str) -> None:
    session = opened(url)
    for wanted in FIXTURES["calls"]:
        params = {"name": wanted["name"]}
        if "arguments" in wanted:
            params["arguments"] = wanted["arguments"]
        found = session.result("tools/call", params)
        same(found.get("isError", False), wanted["result"].get("isError", False))
        same(found["content"], wanted["result"]["content"])
        assert "resultType" not in found, found


@twin("tools-call-with-logging")
def logging(url: str) -> None:
    session = opened(url)
    session.result("logging/setLevel", {"level": "debug"})
    *logs, ending = session.send("tools/call", {"name": "test_tool_with_logging"}, id="l").messages()
    same([log["method"] for log in logs], ["notifications/message"] * 3)
    same([(log["params"]["level"], log["params"]["data"]) for log in logs], [("info", t) for t in FIXTURES["logs"]])
    same(ending["id"], "l")
    session.result("logging/setLevel", {"level": "error"})
    same(len(session.send("tools/call", {"name": "test_tool_with_logging"}).messages()), 1)


@twin("tools-call-with-progress")
def progress(url: str) -> None:
    session = opened(url)
    for token in ("token-1", 17, "17"):
        params = {"name": "test_tool_with_progress", "arguments": {}, "_meta": {"progressToken": token}}
        *steps, ending = session.send("tools/call", params).messages()
        same({step["method"] for step in steps}, {"notifications/progress"})
        same(
            [step["params"] for step in steps],
            [{"progressToken": token, "progress": value, "total": 100} for value in (0, 50, 100)],
        )
        same(call_text(ending), "Progress reported")
    same(len(session.send("tools/call", {"name": "test_tool_with_progress"}).messages()), 1)


def ask(session: Session, tool: str, arguments: dict, answer: dict) -> tuple[dict, dict]:
    """Calls a tool that asks once; returns the question and the ending."""
    stream = session.send("tools/call", {"name": tool, "arguments": arguments}, id=f"call {tool}")
    asked = stream.message()
    accepted = session.post({"jsonrpc": "2.0", "id": asked["id"], **answer})
    same((accepted.status, accepted.body()), (202, b""))
    rest = stream.messages()
    same(len(rest), 1)
    same(rest[0]["id"], f"call {tool}")
    return asked, rest[0]


@twin("tools-call-elicitation")
def elicitation(url: str) -> None:
    session = opened(url)
    wanted = {
        "message": "Who?",
        "requestedSchema": {
            "type": "object",
            "properties": {
                "username": {"type": "string", "description": "User's response"},
                "email": {"type": "string", "description": "User's email address"},
            },
            "required": ["username", "email"],
        },
    }
    for answer, text in [
        (
            {"action": "accept", "content": {"username": "ada", "email": "a@b.c"}},
            # Word for word as it was sent, spaces and all.
            'User response: action=accept, content={"username": "ada", "email": "a@b.c"}',
        ),
        ({"action": "decline"}, "User response: action=decline, content=null"),
        ({"action": "cancel"}, "User response: action=cancel, content=null"),
    ]:
        asked, ending = ask(session, "test_elicitation", {"message": "Who?"}, {"result": answer})
        same(asked["method"], "elicitation/create")
        same({name: asked["params"][name] for name in wanted}, wanted)
        same(call_text(ending), text)
    refusal = {"error": {"code": -32603, "message": "no user here"}}
    _, ending = ask(session, "test_elicitation", {"message": "Who?"}, refusal)
    assert "error" in ending or ending["result"]["isError"], ending


@twin("tools-call-sampling")
def sampling(url: str) -> None:
    session = opened(url)
    answer = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "hi"}, "stopReason": "endTurn"}
    asked, ending = ask(session, "test_sampling", {"prompt": "say hi"}, {"result": answer})
    same(asked["method"], "sampling/createMessage")
    same(asked["params"]["maxTokens"], 100)
    same(asked["params"]["messages"], [{"role": "user", "content": {"type": "text", "text": "say hi"}}])
    same(call_text(ending), "LLM response: hi")


@twin("elicitation-sep1034-defaults, elicitation-sep1330-enums")
def schemas(url: str) -> None:
    session = opened(url)
    for tool, wanted in [
        (
            "test_elicitation_sep1034_defaults",
            {
                "name": {"type": "string", "default": "John Doe"},
                "age": {"type": "integer", "default": 30},
                "score": {"type": "number", "default": 95.5},
                "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
                "verified": {"type": "boolean", "default": True},
            },
        ),
        (
            "test_elicitation_sep1330_enums",
            {
                "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
                "titledSingle": {"type": "string", "oneOf": titled("value", "Option")},
                "legacyEnum": {
                    "type": "string",
                    "enum": ["opt1", "opt2", "opt3"],
                    "enumNames": ["Option One", "Option Two", "Option Three"],
                },
                "untitledMulti": {
                    "type": "array",
                    "items": {"type": "string", "enum": ["option1", "option2", "option3"]},
                },
                "titledMulti": {"type": "array", "items": {"anyOf": titled("value", "Choice")}},
            },
        ),
    ]:
        asked, ending = ask(session, tool, {}, {"result": {"action": "accept", "content": {"x": "y"}}})
        same(asked["params"]["requestedSchema"]["properties"], wanted)
        same(call_text(ending), 'Elicitation completed: action=accept, content={"x": "y"}')


def titled(value: str, title: str) -> list[dict]:
    names = ("First", "Second", "Third")
    return [{"const": f"{value}{n}", "title": f"{name} {title}"} for n, name in enumerate(names, 1)]


@twin("server-sse-multiple-streams")
def parallel_streams(url: str) -> None:
    session = opened(url)
    streams = {}
    for n in (1, 2, 3):
        params = {"name": "test_elicitation", "arguments": {"message": f"Question {n}"}}
        streams[n] = session.send("tools/call", params, id=n)
    asked = {n: stream.message() for n, stream in streams.items()}
    same({n: question["params"]["message"] for n, question in asked.items()}, {n: f"Question {n}" for n in streams})
    same(len({question["id"] for question in asked.values()}), 3)
    for n in (2, 3, 1):
        content = {"username": f"user {n}", "email": "e"}
        answer = {"jsonrpc": "2.0", "id": asked[n]["id"], "result": {"action": "accept", "content": content}}
        same(session.post(answer).status, 202)
        ending = streams[n].message()
        same(ending["id"], n)
        assert f"user {n}" in call_text(ending), ending
        same(streams[n].message(), None)


@twin("resources-list, resources-read-text, resources-read-binary, resources-templates-read")
def resources(url: str) -> None:
    session = opened(url)
    listed = {entry["uri"]: entry for entry in session.result("resources/list")["resources"]}
    same(of(listed, FIXTURES["resources"]), FIXTURES["resources"])
    for read in FIXTURES["reads"]:
        same(session.result("resources/read", {"uri": read["uri"]}), {"contents": read["contents"]})
    unknown = session.send("resources/read", {"uri": "test://none"})
    same((unknown.status, unknown.messages()[-1]["error"]["code"]), (200, -32002))


@twin("resources-subscribe, resources-unsubscribe")
def subscriptions(url: str) -> None:
    session = opened(url)
    stream = session.get()
    same((stream.status, stream.type), (200, "text/event-stream"))
    watched, neighbour = "test://watched-resource", "test://watched-neighbour"
    for uri in (watched, neighbour):
        same(session.result("resources/subscribe", {"uri": uri}), {})
    same(session.result("resources/unsubscribe", {"uri": watched}), {})
    for uri in (watched, neighbour, neighbour):
        session.result("tools/call", {"name": "touch", "arguments": {"uri": uri}})
        if uri == neighbour:
            same(
                stream.message(),
                {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": neighbour}},
            )
    stream.close()


@twin("prompts-list, prompts-get-simple, -with-args, -embedded-resource, -with-image")
def prompts(url: str) -> None:
    session = opened(url)
    listed = {entry["name"]: entry for entry in session.result("prompts/list")["prompts"]}
    same(of(listed, FIXTURES["prompts"]), FIXTURES["prompts"])
    for get in FIXTURES["gets"]:
        params = {"name": get["name"], **({"arguments": get["arguments"]} if "arguments" in get else {})}
        found = session.result("prompts/get", params)
        same(found["messages"], get["messages"])
        assert "resultType" not in found, found


@twin("dns-rebinding-protection")
def rebinding(url: str) -> None:
    client = {"name": "wire", "version": "1.0.0"}
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
    hello = request("initialize", params)
    for headers in (
        {"Host": "evil.example.com"},
        {"Origin": "http://evil.example.com"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example.com"},
    ):
        answer = post(url, hello, headers)
        same((headers, answer.status), (headers, 403))
        assert answer.headers["mcp-session-id"] is None
        answer.close()
    for headers in ({"Origin": "http://localhost:1234"}, {"Origin": "http://127.0.0.1"}, {"Host": "localhost"}):
        answer = post(url, hello, headers)
        same((headers, answer.status), (headers, 200))
        answer.close()
    same(send(url, "GET", None, {"Host": "evil.example.com", "Accept": "text/event-stream"}).status, 403)


@twin("server-sse-polling")
def polling(url: str) -> None:
    session = opened(url)
    stream = session.send("tools/call", {"name": "test_reconnection", "arguments": {}}, id="again")
    events = [event for event in iter(stream.event, None) if event.comment is None]
    first = events[0]
    assert first.id and first.data == "", first
    assert any(event.retry for event in events), events
    assert not any(event.data for event in events), "the answer waits for the client to come back"
    back = session.get(last_event_id=events[-1].id)
    same((back.status, back.type), (200, "text/event-stream"))
    ending = back.message()
    same(ending["id"], "again")
    same(call_text(ending), "Reconnected")
    back.close()
    other = opened(url)
    same(other.get(last_event_id=events[-1].id).status, 400)
