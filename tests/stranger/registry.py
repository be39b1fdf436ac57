"""A registry written from proto/ alone, knowing nothing else of the mesh: python registry.py [--listen HOST:PORT]"""

import argparse
import asyncio
import hashlib
import json
import secrets
import signal
import time

import grpc
from trunkline.registry.v1 import catalog_pb2, catalog_pb2_grpc, invocations_pb2, invocations_pb2_grpc
from trunkline.registry.v1 import prompts_pb2_grpc, resources_pb2_grpc, tools_pb2_grpc
from trunkline.registry.v1.types_pb2 import CACHE_SCOPE_PUBLIC, KIND_PROMPTS, KIND_RESOURCES, KIND_TOOLS
from trunkline.registry.v1.types_pb2 import Accepted, Failure, Frame, InputRequired, ListResponse

NAME, INSTANCE, PAGE, KEPT_S, DRAIN_S, LIMIT = "stranger", secrets.token_hex(8), 3, 300, 10, 8 << 20
TOPICS = ["sea", "snow", "stone", "wind"]


def text(value):
    return {"content": [{"type": "text", "text": value}]}


class Refused(Exception):
    """Ends an invocation with a JSON-RPC error."""


# ---- what this registry offers


async def reverse(_, arguments):
    if not isinstance(arguments.get("text"), str):
        return text("`text` must be a string") | {"isError": True}
    return text(arguments["text"][::-1])


async def count(invocation, _):
    for step in (1, 2, 3):
        invocation.progress(step, 3)
    return text("1, 2, 3")


async def greet(invocation, _):
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    params = {"mode": "form", "message": "Who are you?", "requestedSchema": schema}
    answers = await invocation.ask({"name": {"method": "elicitation/create", "params": params}})
    answer = answers["name"]
    if answer.get("action") != "accept":
        return text("Hello, stranger!")
    return text(f"Hello, {answer['content']['name']}!")


async def hold(invocation, _):
    invocation.progress(1, 1)
    await asyncio.Event().wait()


async def note(_, arguments):
    uri = f"stranger://notes/{len(RESOURCES)}"
    RESOURCES[uri] = arguments.get("text", "")
    LISTS[KIND_RESOURCES].append({"uri": uri, "name": f"Note {len(RESOURCES) - 1}", "mimeType": "text/plain"})
    CHANGED.ring()
    return text(uri)


async def read(_, __, uri):
    return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": RESOURCES[uri]}]}


async def haiku(_, arguments):
    if "topic" not in arguments:
        raise Refused(-32602, "argument `topic` is missing")
    return {"messages": [{"role": "user", "content": {"type": "text", "text": f"A haiku on {arguments['topic']}"}}]}


def tool(name, description, **properties):
    required = [key for key, schema in properties.items() if "default" not in schema]
    schema = {"type": "object", "properties": properties, "required": required}
    return {"name": name, "description": description, "inputSchema": schema}


TOOLS = {"reverse": reverse, "count": count, "greet": greet, "hold": hold, "note": note}
PROMPTS = {"haiku": haiku}
RESOURCES = {"stranger://motto": "Everyone is a stranger somewhere."}
LISTS = {
    KIND_TOOLS: [
        tool("reverse", "Turns a text round", text={"type": "string"}),
        tool("count", "Counts to three and reports progress"),
        tool("greet", "Asks for a name"),
        tool("hold", "Runs until it is cancelled"),
        tool("note", "Keeps a text as a new resource", text={"type": "string", "default": ""}),
    ],
    KIND_RESOURCES: [{"uri": "stranger://motto", "name": "Motto", "mimeType": "text/plain"}],
    KIND_PROMPTS: [{"name": "haiku", "arguments": [{"name": "topic", "required": True}]}],
}


# ---- how it is served


class Bell:
    """Wakes everyone who waits."""

    def __init__(self):
        self.event = asyncio.Event()

    def ring(self):
        self.event.set()
        self.event = asyncio.Event()


class Invocation:
    """A running or finished handler and the frames it has sent."""

    def __init__(self, context, rpc):
        self.context, self.frames, self.bell, self.readers = context, [], Bell(), 0
        self.over, self.round, self.answers, self.timer = False, 0, None, None
        self.owned = (context.slot, context.epoch) != (0, 0)
        self.push(accepted=Accepted(invocation=context.invocation, instance=INSTANCE))
        self.bound(rpc)

    def bound(self, rpc):
        """The deadline of the caller is the deadline of the handler."""
        if (left := rpc.time_remaining()) is not None:
            self.timer = asyncio.get_running_loop().call_later(left, self.cancel)

    def cancel(self):
        self.task.cancel()

    def push(self, **kind):
        self.frames.append(Frame(number=len(self.frames) + 1, **kind))
        self.bell.ring()

    def progress(self, done, total):
        if self.context.progress:
            self.push(raw_progress=json.dumps({"progress": done, "total": total}).encode())

    async def ask(self, requests):
        """Parks the handler until every request has an answer."""
        self.round, given = self.round + 1, {}
        while missing := {key: value for key, value in requests.items() if key not in given}:
            self.answers = asyncio.get_running_loop().create_future()
            until, raw = int((time.time() + KEPT_S) * 1000), json.dumps(missing).encode()
            if self.timer:
                self.timer.cancel()
            question = InputRequired(raw_input_requests=raw, round=self.round, expires_unix_ms=until, parked=True)
            self.push(input_required=question)
            for response in await asyncio.wait_for(self.answers, KEPT_S):
                if response.HasField("error"):
                    raise Refused(response.error.code, response.error.message)
                given[response.key] = json.loads(response.raw_result)
        return given

    def parked(self):
        return self.answers is not None and not self.answers.done()

    async def run(self, handler, *arguments):
        try:
            ending = {"raw_result": json.dumps(await handler(self, *arguments)).encode()}
        except Refused as refusal:
            ending = {"error": Failure(code=refusal.args[0], message=refusal.args[1])}
        except (asyncio.CancelledError, TimeoutError):
            ending = {"error": Failure(code=-32603, message="cancelled")}
        except Exception as error:
            ending = {"error": Failure(code=-32603, message=f"{type(error).__name__} in the handler")}
        self.over = True
        self.push(**ending)


class Registry:
    """The five services; every method is named as in proto/."""

    def __init__(self):
        self.invocations, self.epochs, self.draining, self.gone = {}, {}, False, asyncio.Event()

    async def admit(self, context, rpc):
        """Refuses other registries and former owners; the key of the invocation otherwise."""
        if context.registry != NAME:
            await rpc.abort(grpc.StatusCode.NOT_FOUND, "no such registry")
        slot = (context.mesh, context.slot)
        if context.epoch < self.epochs.get(slot, 0) and (context.slot, context.epoch) != (0, 0):
            await rpc.abort(grpc.StatusCode.FAILED_PRECONDITION, "stale epoch")
        self.epochs[slot] = max(context.epoch, self.epochs.get(slot, 0))
        return context.mesh, context.invocation

    async def stream(self, invocation, after, rpc):
        invocation.readers += 1
        rpc.add_done_callback(lambda _: self.left(invocation))
        sent = None
        while True:
            event = invocation.bell.event
            for sent in invocation.frames[after:]:
                after += 1
                yield sent
            ended = sent is not None and sent.WhichOneof("kind") in ("raw_result", "error", "input_required")
            if len(invocation.frames) <= after and (ended or invocation.over):
                return
            await event.wait()

    def left(self, invocation):
        invocation.readers -= 1
        if not (invocation.owned or invocation.readers or invocation.parked()):
            invocation.cancel()

    async def start(self, request, rpc, handler, *arguments):
        key = await self.admit(request.context, rpc)
        if key not in self.invocations:
            if self.draining:
                await rpc.abort(grpc.StatusCode.UNAVAILABLE, "draining")
            invocation = self.invocations[key] = Invocation(request.context, rpc)
            invocation.task = asyncio.create_task(invocation.run(handler, *arguments))
            invocation.task.add_done_callback(lambda _: self.finished(key, invocation))
        async for frame in self.stream(self.invocations[key], 0, rpc):
            yield frame

    def finished(self, key, invocation):
        kept = KEPT_S if invocation.owned else 0
        asyncio.get_running_loop().call_later(kept, self.invocations.pop, key, None)

    def Call(self, request, rpc):
        return self.start(request, rpc, known(TOOLS, request.name), arguments(request))

    def Read(self, request, rpc):
        found = {request.uri: read} if request.uri in RESOURCES else {}
        code = -32602 if request.context.protocol_revision >= "2026" else -32002
        return self.start(request, rpc, known(found, request.uri, code), {}, request.uri)

    def Get(self, request, rpc):
        return self.start(request, rpc, known(PROMPTS, request.name), arguments(request))

    async def Attach(self, request, rpc):
        key = await self.admit(request.context, rpc)
        if key not in self.invocations:
            await rpc.abort(grpc.StatusCode.NOT_FOUND, "no such invocation")
        async for frame in self.stream(self.invocations[key], request.after, rpc):
            yield frame

    async def Resume(self, request, rpc):
        ...


async def missing(_, *__):
    ...
