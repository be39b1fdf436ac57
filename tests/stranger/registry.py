"""A registry written from proto/ alone, knowing nothing else of the mesh: python registry.py [--listen HOST:PORT]"""

import asyncio
import hashlib
import json
import secrets
import signal
import sys
import time
from functools import partial

import grpc
from trunkline.registry.v1 import catalog_pb2 as catalog
from trunkline.registry.v1 import catalog_pb2_grpc, invocations_pb2_grpc, prompts_pb2_grpc, resources_pb2_grpc
from trunkline.registry.v1 import invocations_pb2 as invocations
from trunkline.registry.v1 import tools_pb2_grpc
from trunkline.registry.v1 import types_pb2 as types

NAME, INSTANCE, PAGE, KEPT_S, DRAIN_S, LIMIT = "stranger", secrets.token_hex(8), 3, 300, 10, 8 << 20
ENDINGS = ("raw_result", "error", "input_required")

# ---- What it offers. A handler gets its invocation and the arguments.


async def reverse(_, given):
    return text(given["text"][::-1])


async def count(call, _):
    for step in (1, 2, 3):
        call.progress(step)
    return text("1, 2, 3")


async def greet(call, _):
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    form = {"mode": "form", "message": "Who are you?", "requestedSchema": schema}
    answers = await call.ask({"who": {"method": "elicitation/create", "params": form}})
    return text(f"Hello, {answers['who'].get('content', {}).get('name', 'stranger')}!")


async def hold(call, _):
    call.progress(1)
    await asyncio.Event().wait()


async def motto(*_):
    return {"contents": [{"uri": MOTTO, "mimeType": "text/plain", "text": "Everyone is a stranger somewhere."}]}


async def haiku(_, given):
    return {"messages": [{"role": "user"} | {"content": text(f"A haiku about {given['topic']}")["content"][0]}]}


def text(value):
    return {"content": [{"type": "text", "text": value}]}


def tool(name, description, **properties):
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": description, "inputSchema": schema}


MOTTO, TOPICS = "stranger://motto", ["sea", "snow", "stone", "wind"]
TOOLS, RESOURCES, PROMPTS = types.KIND_TOOLS, types.KIND_RESOURCES, types.KIND_PROMPTS
HANDLERS = {
    TOOLS: {"reverse": reverse, "count": count, "greet": greet, "hold": hold},
    RESOURCES: {MOTTO: motto},
    PROMPTS: {"haiku": haiku},
}
LISTS = {
    TOOLS: [
        tool("reverse", "Turns a text round", text={"type": "string"}),
        tool("count", "Counts to three and reports progress"),
        tool("greet", "Asks who you are"),
        tool("hold", "Runs until it is cancelled"),
    ],
    RESOURCES: [{"uri": MOTTO, "name": "Motto", "mimeType": "text/plain"}],
    PROMPTS: [{"name": "haiku", "arguments": [{"name": "topic", "required": True}]}],
}

# ---- How it is served.


def raw(value):
    return json.dumps(value).encode()


def digest(kind):
    return hashlib.sha256(raw(LISTS[kind])).hexdigest()[:16]


def failure(code, message, data=b""):
    return types.Failure(code=code, message=message, raw_data=data)


class Undeclared(Exception):
    """The client has not declared what it would be asked for."""


class Invocation:
    """A handler, the frames it has sent, and whoever waits for more."""

    def __init__(self, context):
        self.context, self.frames, self.news, self.over = context, [], asyncio.Event(), False
        self.owned = self.kept = bool(context.slot or context.epoch)
        self.round, self.answers, self.readers = 0, None, 0
        self.push(accepted=types.Accepted(invocation=context.invocation, instance=INSTANCE))

    def push(self, **kind):
        self.frames.append(types.Frame(number=len(self.frames) + 1, **kind))
        self.news.set()
        self.news = asyncio.Event()

    def progress(self, step):
        if self.context.progress:
            self.push(raw_progress=raw({"progress": step}))

    def parked(self):
        return self.answers is not None and not self.answers.done()

    def expire_in(self, seconds):
        self.limit.reschedule(seconds and asyncio.get_running_loop().time() + seconds)

    async def ask(self, requests):
        """Parks the handler until every request has an answer; that of a client that refuses is empty."""
        kinds = {request["method"].split("/")[0] for request in requests.values()}
        if missing := kinds - set(json.loads(self.context.raw_client_capabilities or "{}")):
            raise Undeclared({"requiredCapabilities": {kind: {} for kind in missing}})
        self.round, given = self.round + 1, {}
        while missing := {key: value for key, value in requests.items() if key not in given}:
            self.answers, until = asyncio.get_running_loop().create_future(), int((time.time() + KEPT_S) * 1000)
            self.expire_in(KEPT_S)
            question = {"raw_input_requests": raw(missing), "round": self.round, "expires_unix_ms": until}
            self.push(input_required=types.InputRequired(parked=True, **question))
            given |= {answer.key: json.loads(answer.raw_result or "{}") for answer in await self.answers}
        return given

    async def run(self, handlers, name, raw_params, seconds):
        try:
            async with asyncio.timeout(seconds) as self.limit:
                given = json.loads(raw_params or "{}").get("arguments", {})
                ending = {"raw_result": raw(await handlers[name](self, given))}
        except KeyError as key:
            ending = {"error": failure(-32602, f"unknown or missing: {key}")}
        except Undeclared as undeclared:
            ending = {"error": failure(-32021, "the client cannot be asked", raw(undeclared.args[0]))}
        except (asyncio.CancelledError, Exception) as other:
            ending = {"error": failure(-32603, type(other).__name__)}
        self.over = True
        self.push(**ending)


class Registry:
    """The methods of the five services."""

    def __init__(self):
        self.invocations, self.epochs, self.draining = {}, {}, asyncio.Event()

    async def Describe(self, request, rpc):
        kinds = [catalog.KindDigest(kind=kind, digest=digest(kind)) for kind in LISTS]
        one = catalog.RegistryDescription(name=NAME, version="1", namespace=NAME, kinds=kinds, completions=True)
        return catalog.DescribeResponse(instance=INSTANCE, registries=[one])

    async def Watch(self, request, rpc):
        for kind in LISTS:  # they never change
            yield catalog.WatchResponse(changed=catalog.Changed(registry=NAME, kind=kind, digest=digest(kind)))
        await self.draining.wait()
        yield catalog.WatchResponse(not_serving=catalog.NotServing())
        await asyncio.Event().wait()

    async def Complete(self, request, rpc):
        await self.admit(request.context, rpc)
        params = json.loads(request.raw_params)
        if params["ref"].get("name") != "haiku":
            return catalog.CompleteResponse(error=failure(-32602, "unknown prompt"))
        values = [topic for topic in TOPICS if topic.startswith(params["argument"]["value"])]
        return catalog.CompleteResponse(raw_result=raw({"completion": {"values": values}}))

    async def list(self, kind, request, rpc):
        await self.admit(request.context, rpc)
        made_for, _, offset = (request.cursor or f"{digest(kind)}.0").partition(".")
        if made_for != digest(kind) or not offset.isdecimal():
            await rpc.abort(grpc.StatusCode.INVALID_ARGUMENT, "unknown or outdated cursor")
        until = int(offset) + PAGE
        page = {"raw_items": map(raw, LISTS[kind][int(offset) : until]), "ttl_ms": 60_000, "digest": made_for}
        following = f"{made_for}.{until}" if until < len(LISTS[kind]) else ""
        return types.ListResponse(next_cursor=following, cache_scope=types.CACHE_SCOPE_PUBLIC, **page)

    async def start(self, kind, request, rpc):
        key = await self.admit(request.context, rpc)
        if key not in self.invocations:
            if self.draining.is_set():
                await rpc.abort(grpc.StatusCode.UNAVAILABLE, "draining")
            call = self.invocations[key] = Invocation(request.context)
            name = request.uri if kind == RESOURCES else request.name
            running = call.run(HANDLERS[kind], name, request.raw_params, rpc.time_remaining())
            call.task = asyncio.create_task(running)
            call.task.add_done_callback(lambda _: self.forget(key, KEPT_S if call.kept else 0))
        async for frame in self.frames(self.invocations[key], 0):
            yield frame

    async def Attach(self, request, rpc):
        async for frame in self.frames(await self.find(request.context, rpc), request.after):
            yield frame

    async def Resume(self, request, rpc):
        call = await self.find(request.context, rpc)
        asked = [frame.number for frame in call.frames if frame.input_required.round == request.round]
        if not (request.round and asked):
            await rpc.abort(grpc.StatusCode.INVALID_ARGUMENT, "this round has not been asked")
        if call.round == request.round and call.parked():
            call.expire_in(rpc.time_remaining())
            call.answers.set_result(request.responses)
        async for frame in self.frames(call, asked[-1]):
            yield frame

    async def Cancel(self, request, rpc):
        key = await self.admit(request.context, rpc)
        if key in self.invocations:
            self.invocations[key].task.cancel()
        return invocations.CancelResponse()

    async def Release(self, request, rpc):
        mesh, _ = await self.admit(request.context, rpc)
        for key in ((mesh, invocation) for invocation in request.invocations):
            if call := self.invocations.get(key):
                call.kept = False
                if call.over:
                    del self.invocations[key]
        return invocations.ReleaseResponse()

    async def admit(self, context, rpc):
        """The key of the invocation, unless this is another registry or the owner is a former one."""
        if context.registry != NAME:
            await rpc.abort(grpc.StatusCode.NOT_FOUND, "no such registry")
        slot = (context.mesh, context.slot)
        if (context.slot or context.epoch) and context.epoch < self.epochs.get(slot, 0):
            await rpc.abort(grpc.StatusCode.FAILED_PRECONDITION, "stale epoch")
        self.epochs[slot] = max(context.epoch, self.epochs.get(slot, 0))
        return context.mesh, context.invocation

    async def find(self, context, rpc):
        key = await self.admit(context, rpc)
        if key not in self.invocations:
            await rpc.abort(grpc.StatusCode.NOT_FOUND, "no such invocation")
        return self.invocations[key]

    def forget(self, key, seconds):
        asyncio.get_running_loop().call_later(seconds, self.invocations.pop, key, None)

    async def frames(self, call, after):
        """The frames behind `after`, up to an ending that nothing follows (yet)."""
        ended, call.readers = False, call.readers + 1
        try:
            while not (after >= len(call.frames) and (call.over or ended and call.parked())):
                if after >= len(call.frames):
                    await call.news.wait()
                for frame in call.frames[after:]:
                    after, ended = frame.number, frame.WhichOneof("kind") in ENDINGS
                    yield frame
        finally:  # the last caller that leaves cancels what nobody owns
            call.readers -= 1
            if not (ended or call.owned or call.readers):
                call.task.cancel()


async def serve(address):
    server = grpc.aio.server(options=[(f"grpc.max_{way}_message_length", LIMIT) for way in ("receive", "send")])
    registry = Registry()
    tools, prompts = tools_pb2_grpc.ToolRegistryServicer(), prompts_pb2_grpc.PromptRegistryServicer()
    resources = resources_pb2_grpc.ResourceRegistryServicer()
    tools.List, tools.Call = partial(registry.list, TOOLS), partial(registry.start, TOOLS)
    resources.List, resources.Read = partial(registry.list, RESOURCES), partial(registry.start, RESOURCES)
    prompts.List, prompts.Get = partial(registry.list, PROMPTS), partial(registry.start, PROMPTS)
    catalog_pb2_grpc.add_CatalogServicer_to_server(registry, server)
    invocations_pb2_grpc.add_InvocationsServicer_to_server(registry, server)
    tools_pb2_grpc.add_ToolRegistryServicer_to_server(tools, server)
    resources_pb2_grpc.add_ResourceRegistryServicer_to_server(resources, server)
    prompts_pb2_grpc.add_PromptRegistryServicer_to_server(prompts, server)
    port = server.add_insecure_port(address)
    await server.start()
    print(f"listening {NAME} {address.rpartition(':')[0]}:{port}", flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, registry.draining.set)
    await registry.draining.wait()
    if running := [call.task for call in registry.invocations.values() if not call.over]:
        await asyncio.wait(running, timeout=DRAIN_S)
    await server.stop(1)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[2] if sys.argv[1:2] == ["--listen"] else "127.0.0.1:0"))
