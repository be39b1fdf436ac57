"""Strict twins of the suite's checks at 2026-07-28: whole values, exact statuses and codes."""

from __future__ import annotations

import base64
import json
import threading

from twin import FIXTURES, call_text, of, same, twin
from wire import (
    CAPABILITIES,
    CLIENT,
    LOG_LEVEL,
    MODERN,
    PROTOCOL,
    SUBSCRIPTION,
    modern,
    modern_headers,
    modern_request,
    post,
    request,
    send,
)

SERVER = "io.modelcontextprotocol/serverInfo"


def refused(answer, status: int, code: int, id=None, **data) -> dict:
    """Asserts an error with exactly this status, code and id; returns it."""
    found = answer.json()
    same((answer.status, found.get("error", {}).get("code")), (status, code))
    if id is not None:
        same(found["id"], id)
    for name, value in data.items():
        same(found["error"]["data"][name], value)
    return found["error"]


def result(answer) -> dict:
    same(answer.status, 200)
    found = answer.messages()[-1]
    assert "result" in found, found
    return found["result"]


def complete(answer) -> dict:
    """A complete result without what the mesh adds to each."""
    found = result(answer)
    same(found.pop("resultType"), "complete")
    same(found.pop("_meta")[SERVER]["name"], FIXTURES["server"])
    return found


@twin("server-stateless: _meta")
def meta(url: str) -> None:
    for missing in (PROTOCOL, CAPABILITIES):
        message = modern_request("server/discover", id=f"without {missing}")
        del message["params"]["_meta"][missing]
        refused(post(url, message, modern_headers(message)), 400, -32602, message["id"])
    message = {**request("server/discover", id=3), "params": {}}
    refused(post(url, message, modern_headers(message)), 400, -32602, 3)
    message = modern_request("server/discover")
    del message["params"]["_meta"][CLIENT]
    complete(post(url, message, modern_headers(message)))


@twin("server-stateless: discover")
def discover(url: str) -> None:
    found = complete(modern(url, "server/discover"))
    same(found["supportedVersions"], [MODERN])
    assert isinstance(found["ttlMs"], int) and found["ttlMs"] >= 0, found
    assert found["cacheScope"] in ("public", "private"), found
    wanted = {
        "tools": {"listChanged": True},
        "prompts": {"listChanged": True},
        "resources": {"listChanged": True, "subscribe": True},
        "completions": {},
    }
    same({name: found["capabilities"].get(name) for name in wanted}, wanted)


@twin("server-stateless: versions and headers")
def versions(url: str) -> None:
    for version in ("v999.0.0", "2025-11-25"):
        message = modern_request("server/discover", {"_meta": {PROTOCOL: version}}, id=version)
        headers = {**modern_headers(message), "MCP-Protocol-Version": version}
        refused(post(url, message, headers), 400, -32022, version, supported=[MODERN], requested=version)
    message = modern_request("server/discover", {"_meta": {PROTOCOL: "v999.0.0"}}, id=1)
    refused(post(url, message, modern_headers(message)), 400, -32020, 1)
    message = modern_request("server/discover", id=2)
    refused(post(url, message, {"Mcp-Method": "server/discover"}), 400, -32020, 2)


@twin("server-stateless: methods")
def methods(url: str) -> None:
    removed = ("initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe")
    for method in (*removed, "tasks/list", "tasks/result", "unknown/method"):
        message = modern_request(method, id=f"id {method}")
        refused(post(url, message, modern_headers(message)), 404, -32601, message["id"])
    # What the endpoint has no use for at all is told apart from what only older revisions use.
    for verb, allowed in (("GET", "POST"), ("DELETE", "POST"), ("PUT", "GET, POST, DELETE")):
        answer = send(url, verb, None, {"MCP-Protocol-Version": MODERN, "Accept": "text/event-stream"})
        same((verb, answer.status, answer.headers["allow"]), (verb, 405, allowed))
        answer.close()


@twin("server-stateless: capabilities")
def capabilities(url: str) -> None:
    params = {"name": "test_missing_capability", "arguments": {}}
    answer = modern(url, "tools/call", params, capabilities={}, id=401)
    refused(answer, 400, -32021, 401, requiredCapabilities={"sampling": {}})
    asked = complete(modern(url, "tools/call", params, capabilities={"sampling": {}}))
    assert asked["content"], asked


@twin("server-stateless: streams")
def streams(url: str) -> None:
    params = {"name": "test_streaming_elicitation", "arguments": {}}
    messages = modern(url, "tools/call", params, capabilities={"elicitation": {}}).messages()
    same({message.get("method") for message in messages[:-1]} - {"notifications/progress"}, set())
    same(messages[-1]["result"]["resultType"], "input_required")
    quiet = modern(url, "tools/call", {"name": "test_logging_tool", "arguments": {}}).messages()
    same(len(quiet), 1)
    call = {"name": "test_logging_tool", "arguments": {}, "_meta": {LOG_LEVEL: "info"}}
    *logs, _ = modern(url, "tools/call", call).messages()
    assert logs and {log["method"] for log in logs} == {"notifications/message"}, logs


@twin("server-stateless: subscriptions")
def subscriptions(url: str) -> None:
    for id in (77, "77", "listen"):
        stream = modern(url, "subscriptions/listen", {"notifications": {"toolsListChanged": True}}, id=id)
        same((stream.status, stream.type), (200, "text/event-stream"))
        wanted = {
            "jsonrpc": "2.0",
            "method": "notifications/subscriptions/acknowledged",
            "params": {"notifications": {"toolsListChanged": True}, "_meta": {SUBSCRIPTION: id}},
        }
        same(stream.message(), wanted)
        for tool in ("test_trigger_prompt_change", "test_trigger_tool_change"):
            complete(modern(url, "tools/call", {"name": tool, "arguments": {}}))
        changed = stream.message()
        same((changed["method"], changed["params"]["_meta"]), ("notifications/tools/list_changed", {SUBSCRIPTION: id}))
        stream.close()


@twin("completion-complete, tools-call-*, resources-*, prompts-*")
def contents(url: str) -> None:
    for wanted in FIXTURES["calls"]:
        params = {name: wanted[name] for name in ("name", "arguments") if name in wanted}
        message = modern_request("tools/call", params)
        headers = modern_headers(message)
        if "region" in wanted.get("arguments", {}):
            region = base64.b64encode(params["arguments"]["region"].encode()).decode()
            headers["Mcp-Param-Region"] = f"=?base64?{region}?="
        found = complete(post(url, message, headers))
        same(found.get("isError", False), wanted["result"].get("isError", False))
        same(found["content"], wanted["result"]["content"])
    for read in FIXTURES["reads"]:
        same(complete(modern(url, "resources/read", {"uri": read["uri"]}))["contents"], read["contents"])
    for get in FIXTURES["gets"]:
        params = {name: get[name] for name in ("name", "arguments") if name in get}
        same(complete(modern(url, "prompts/get", params))["messages"], get["messages"])
    for wanted in FIXTURES["completions"]:
        params = {"ref": wanted["ref"], "argument": wanted["argument"]}
        if "context" in wanted:
            params["context"] = {"arguments": wanted["context"]}
        same(complete(modern(url, "completion/complete", params))["completion"]["values"], wanted["values"])


@twin("tools-list, resources-list, prompts-list, caching")
def lists(url: str) -> None:
    for method, key, name, wanted in [
        ("tools/list", "tools", "name", FIXTURES["tools"]),
        ("resources/list", "resources", "uri", FIXTURES["resources"]),
        ("resources/templates/list", "resourceTemplates", "uriTemplate", FIXTURES["templates"]),
        ("prompts/list", "prompts", "name", FIXTURES["prompts"]),
    ]:
        first, second = complete(modern(url, method)), complete(modern(url, method, capabilities={}))
        same(first, second)
        same(of({entry[name]: entry for entry in first[key]}, wanted), wanted)
        if name == "name":
            names = [entry[name] for entry in first[key]]
            same(names, sorted(names, key=str.encode))
        assert type(first["ttlMs"]) is int and first["ttlMs"] >= 0, first["ttlMs"]
        assert first["cacheScope"] in ("public", "private"), first["cacheScope"]
    read = complete(modern(url, "resources/read", {"uri": "test://static-text"}))
    assert type(read["ttlMs"]) is int and read["cacheScope"] in ("public", "private"), read


@twin("sep-2164-resource-not-found")
def not_found(url: str) -> None:
    uri = "test://nonexistent"
    found = refused(modern(url, "resources/read", {"uri": uri}, id="n"), 200, -32602, "n", uri=uri)
    same(found["data"], {"uri": uri})
    refused(modern(url, "tools/call", {"name": "nonexistent", "arguments": {}}), 200, -32602)
    refused(modern(url, "prompts/get", {"name": "nonexistent"}), 200, -32602)


@twin("tools-call-with-progress")
def progress(url: str) -> None:
    for token in ("progress-test-1", 5):
        params = {"name": "test_tool_with_progress", "arguments": {}, "_meta": {"progressToken": token}}
        *steps, ending = modern(url, "tools/call", params).messages()
        same(
            [step["params"] for step in steps],
            [{"progressToken": token, "progress": value, "total": 100} for value in (0, 50, 100)],
        )
        same(call_text(ending), "Progress reported")


@twin("server-sse-multiple-streams")
def parallel(url: str) -> None:
    found = {}

    def one(n: int) -> None:
        params = {"name": "echo", "arguments": {"message": f"echo {n}"}}
        found[n] = modern(url, "tools/call", params, id=n).messages()[-1]

    threads = [threading.Thread(target=one, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    echoed = {n: (message["id"], json.loads(call_text(message))["echo"]) for n, message in found.items()}
    same(echoed, {n: (n, f"echo {n}") for n in range(12)})


@twin("http-header-validation")
def headers(url: str) -> None:
    message = modern_request("tools/call", {"name": "about", "arguments": {}}, id=9)
    good = modern_headers(message)
    for change in (
        {"Mcp-Method": "prompts/get"},
        {"Mcp-Method": "TOOLS/CALL"},
        {"Mcp-Method": None},
        {"Mcp-Name": "calculator"},
        {"Mcp-Name": "ABOUT"},
        {"Mcp-Name": None},
        {"Mcp-Name": "=?base64?YWJvdXQ?="},
        {"MCP-Protocol-Version": None},
    ):
        sent = {name: value for name, value in {**good, **change}.items() if value is not None}
        refused(post(url, message, sent), 400, -32020, 9)
    encoded = f"=?base64?{base64.b64encode(b'about').decode()}?="
    for change in ({"Mcp-Name": "  about  "}, {"Mcp-Name": encoded}):
        complete(post(url, message, {**good, **change}))
    complete(post(url, message, {name.upper(): value for name, value in good.items()}))


@twin("http-custom-header-server-validation")
def parameters(url: str) -> None:
    def call(region: str, header: str | None):
        message = modern_request("tools/call", {"name": "test_header_param", "arguments": {"region": region}}, id=4)
        sent = modern_headers(message) | ({} if header is None else {"Mcp-Param-Region": header})
        return post(url, message, sent)

    for region, header in [
        ("Hello", "Hello"),
        ("Hello", "=?base64?SGVsbG8=?="),
        ("SGVsbG8=", "SGVsbG8="),
        ("=?base64?SGVsbG8=", "=?base64?SGVsbG8="),
        ("=?BASE64?SGVsbG8=?=", "=?BASE64?SGVsbG8=?="),
    ]:
        same(complete(call(region, header))["content"], [{"type": "text", "text": f"region={region}"}])
    for region, header in [
        ("Hello", None),
        ("Hello", "hello"),
        ("Hello", "=?base64?SGVsbG8?="),
        ("Hello", "=?base64?SGVs!!!bG8=?="),
        ("Hello", ""),
    ]:
        refused(call(region, header), 400, -32020, 4)
