"""Strict twins of the suite's input-required-result scenarios: keys, rounds, states and endings, exactly."""

from __future__ import annotations

from modern import complete, refused, result
from twin import same, twin
from wire import CAPABILITIES, modern, modern_request

PREFIX = "test_input_required_result_"
NAME = {
    "message": "What is your name?",
    "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
}
PARIS = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "Paris"}, "stopReason": "endTurn"}
ROOTS = {"roots": [{"uri": "file:///test/root", "name": "Test Root"}]}


def accept(**content) -> dict:
    return {"action": "accept", "content": content}


def call(url: str, tool: str, **more):
    return modern(url, "tools/call", {"name": PREFIX + tool, "arguments": {}, **more})


def asked(answer) -> dict:
    """An input_required result and nothing that only complete ones have."""
    found = result(answer)
    same(found["resultType"], "input_required")
    assert "ttlMs" not in found and "cacheScope" not in found and "content" not in found, found
    return found


def again(url: str, tool: str, previous: dict, responses: dict, **more):
    """The same call once more, with answers and the state exactly as it was given."""
    state = {"requestState": previous["requestState"]} if "requestState" in previous else {}
    return call(url, tool, inputResponses=responses, **state, **more)


def text(answer) -> str:
    found = complete(answer)
    same(len(found["content"]), 1)
    return found["content"][0]["text"]


@twin("input-required-result-basic-elicitation, -result-type")
def elicitation(url: str) -> None:
    first = asked(call(url, "elicitation"))
    same(list(first["inputRequests"]), ["user_name"])
    same(first["inputRequests"]["user_name"]["method"], "elicitation/create")
    params = first["inputRequests"]["user_name"]["params"]
    same({name: params[name] for name in NAME}, NAME)
    same(text(again(url, "elicitation", first, {"user_name": accept(name="Alice")})), "Hello, Alice!")
    same(text(again(url, "elicitation", first, {"user_name": {"action": "decline"}})), "Hello, stranger!")


@twin("input-required-result-basic-sampling")
def sampling(url: str) -> None:
    first = asked(call(url, "sampling"))
    question = {"type": "text", "text": "What is the capital of France?"}
    wanted = {"messages": [{"role": "user", "content": question}], "maxTokens": 100}
    same(first["inputRequests"], {"capital_question": {"method": "sampling/createMessage", "params": wanted}})
    same(text(again(url, "sampling", first, {"capital_question": PARIS})), "The model says: Paris")


@twin("input-required-result-basic-list-roots")
def roots(url: str) -> None:
    first = asked(call(url, "list_roots"))
    same(list(first["inputRequests"]), ["client_roots"])
    same(first["inputRequests"]["client_roots"]["method"], "roots/list")
    same(text(again(url, "list_roots", first, {"client_roots": ROOTS})), "Roots: file:///test/root")


@twin("input-required-result-request-state")
def state(url: str) -> None:
    first = asked(call(url, "request_state"))
    same(list(first["inputRequests"]), ["confirm"])
    assert isinstance(first["requestState"], str) and first["requestState"], first
    same(text(again(url, "request_state", first, {"confirm": accept(ok=True)})), "state-ok")


@twin("input-required-result-multiple-input-requests")
def several(url: str) -> None:
    first = asked(call(url, "multiple_inputs"))
    methods = {key: asked_for["method"] for key, asked_for in first["inputRequests"].items()}
    wanted = {
        "user_name": "elicitation/create",
        "greeting": "sampling/createMessage",
        "client_roots": "roots/list",
    }
    same(methods, wanted)
    hello = {**PARIS, "content": {"type": "text", "text": "Hello there"}}
    some = asked(again(url, "multiple_inputs", first, {"user_name": accept(name="Alice"), "greeting": hello}))
    assert "client_roots" in some["inputRequests"], some
    all_of_them = {"user_name": accept(name="Alice"), "greeting": hello, "client_roots": ROOTS}
    said = text(again(url, "multiple_inputs", some, all_of_them))
    same(said, "Hello there, Alice! Roots: file:///test/root")


@twin("input-required-result-multi-round")
def rounds(url: str) -> None:
    first = asked(call(url, "multi_round"))
    same(list(first["inputRequests"]), ["step1"])
    second = asked(again(url, "multi_round", first, {"step1": accept(name="Alice")}))
    same(list(second["inputRequests"]), ["step2"])
    assert second["requestState"] != first["requestState"]
    same(text(again(url, "multi_round", second, {"step2": accept(color="blue")})), "Alice likes blue")


@twin("input-required-result-missing-input-response, -ignore-extra-params, -validate-input")
def answers(url: str) -> None:
    first = asked(call(url, "elicitation"))
    for responses in ({}, {"wrong_key": accept(data="wrong")}):
        once_more = asked(again(url, "elicitation", first, responses))
        same(list(once_more["inputRequests"]), ["user_name"])
    extra = {"user_name": accept(name="Alice"), "other": accept(foo="bar"), "another": accept(baz=123)}
    same(text(again(url, "elicitation", first, extra)), "Hello, Alice!")
    for unusable in (12345, None, "Alice", [], {"action": "shrug"}, {"action": "accept", "content": {}}):
        once_more = asked(again(url, "elicitation", first, {"user_name": unusable}))
        same(list(once_more["inputRequests"]), ["user_name"])
    for broken in (None, 7, "text", []):
        refused(again(url, "elicitation", first, broken), 400, -32602)
    # Answers that come with a first request: the tool may use them or ask.
    same(text(call(url, "elicitation", inputResponses=extra)), "Hello, Alice!")
    same(list(asked(call(url, "elicitation", inputResponses={"other": accept()}))["inputRequests"]), ["user_name"])
    refused(call(url, "elicitation", inputResponses=None), 400, -32602)


@twin("input-required-result-non-tool-request")
def prompt(url: str) -> None:
    name = {"name": PREFIX + "prompt"}
    first = asked(modern(url, "prompts/get", name))
    same(list(first["inputRequests"]), ["user_context"])
    more = {"inputResponses": {"user_context": accept(context="the sea")}}
    if "requestState" in first:
        more["requestState"] = first["requestState"]
    messages = complete(modern(url, "prompts/get", {**name, **more}))["messages"]
    same(messages, [{"role": "user", "content": {"type": "text", "text": "Use this context: the sea"}}])


@twin("input-required-result-unsupported-methods")
def unsupported(url: str) -> None:
    for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list", "server/discover"):
        same(result(modern(url, method))["resultType"], "complete")


@twin("input-required-result-tampered-state")
def tampered(url: str) -> None:
    first = asked(call(url, "tampered_state"))
    good, answer = first["requestState"], {"confirm": accept(ok=True)}
    middle = len(good) // 2
    flipped = good[:middle] + ("A" if good[middle] != "A" else "B") + good[middle + 1 :]
    refusals = []
    for bad in (good + "-TAMPERED", good[:-1], flipped, "nonsense", ""):
        refusals.append(refused(call(url, "tampered_state", inputResponses=answer, requestState=bad), 400, -32602))
    # The state of one request is no state of another.
    refusals.append(refused(call(url, "request_state", inputResponses=answer, requestState=good), 400, -32602))
    other = {"name": PREFIX + "tampered_state", "arguments": {"x": 1}, "inputResponses": answer, "requestState": good}
    refusals.append(refused(modern(url, "tools/call", other), 400, -32602))
    same(refusals, [refusals[0]] * len(refusals))
    same(text(again(url, "tampered_state", first, answer)), "state-ok")


@twin("input-required-result-capability-check")
def capabilities(url: str) -> None:
    message = modern_request("tools/call", {"name": PREFIX + "capabilities"}, capabilities={"sampling": {}})
    same(message["params"]["_meta"][CAPABILITIES], {"sampling": {}})
    for declared, wanted in [
        ({"sampling": {}}, {"sampling/createMessage"}),
        ({"elicitation": {}}, {"elicitation/create"}),
        ({"sampling": {}, "elicitation": {}}, {"sampling/createMessage", "elicitation/create"}),
    ]:
        params = {"name": PREFIX + "capabilities", "arguments": {}}
        found = asked(modern(url, "tools/call", params, capabilities=declared))
        same({asked_for["method"] for asked_for in found["inputRequests"].values()}, wanted)
