"""Shows a call that outlives the owner of its session: the result, the events, and the trace that crosses the change."""

import http.client
import json
import secrets
import urllib.request
from time import monotonic, sleep

from daemon import Trouble

REVISION = "2025-11-25"
STEPS, PAUSE_MS = 12, 400
# By then the owner has sent the span of its part, which it does every second.
KILLED_AT = 4
# No new span for so long: all are there.
QUIET_S = 7
ACCEPT = "application/json, text/event-stream"


class Client:
    """A client of one session, over the balancer; it knows nothing of nodes."""

    def __init__(self, mesh):
        self.host, self.port = "127.0.0.1", mesh.port()
        self.session = ""

    def post(self, message: dict, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        every = {"content-type": "application/json", "accept": ACCEPT, **{k.replace("_", "-"): v for k, v in headers.items()}}
        if self.session:
            every |= {"mcp-session-id": self.session, "mcp-protocol-version": REVISION}
        connection.request("POST", "/mcp", json.dumps(message), every)
        return connection.getresponse()

    def begin(self) -> None:
        params = {"protocolVersion": REVISION, "capabilities": {}, "clientInfo": {"name": "dev", "version": "1"}}
        answer = self.post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
        if answer.status != 200:
            raise Trouble(f"the mesh does not begin a session: {answer.status} {answer.read().decode()}")
        self.session = answer.headers["mcp-session-id"]
        self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}).read()


def events(answer: http.client.HTTPResponse):
    """Messages of an event stream, each with its id."""
    name = ""
    for raw in answer:
        line = raw.decode().rstrip("\r\n")
        if line.startswith("id:"):
            name = line[3:].strip()
        elif line.startswith("data:") and line[5:].strip():
            yield name, json.loads(line[5:])


def kill_owner(mesh) -> str:
    """Kills the owner of a session in the middle of a call, and starts it again; returns the id of the call's trace."""
    client = Client(mesh)
    client.begin()
    slot = int(client.session.split(".")[2], 16)
    owner = mesh.owner(slot)
    print(f"session      {client.session[:24]}.. is in slot {slot}, which {owner} owns")
    trace = secrets.token_hex(16)
    arguments = {"op": f"dev-{trace[:8]}", "session": "dev", "steps": STEPS, "pause_ms": PAUSE_MS}
    params = {"name": mesh.slow, "arguments": arguments, "_meta": {"progressToken": "dev"}}
    begun = monotonic()
    message = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
    answer = client.post(message, traceparent=f"00-{trace}-{trace[:16]}-01")
    killed, heard, ended = 0.0, 0.0, None
    pauses = []
    for name, said in events(answer):
        now = monotonic()
        pauses.append(now - (heard or begun))
        heard = now
        if "method" in said:
            print(f"{now - begun:6.2f} s     event {name.rsplit('.', 1)[0]:10} progress {said['params']['progress']} of {STEPS}")
            if said["params"]["progress"] >= KILLED_AT and not killed:
                how = mesh.kill(owner)
                killed = monotonic()
                print(f"{killed - begun:6.2f} s     {how}")
        else:
            ended = said
            break
    if ended is None:
        raise Trouble("the stream ended without an answer")
    print(f"{monotonic() - begun:6.2f} s     {json.dumps(ended.get('result', ended.get('error')))}")
    if not killed:
        raise Trouble(f"the call ended before it was at step {KILLED_AT}: nobody was killed")
    successor = mesh.owner(slot)
    print(f"pause        {max(pauses):.2f} s at most between two events; slot {slot} is owned by {successor} now")
    mesh.start_role(owner)
    print(f"{owner} is started again")
    show_trace(mesh, trace)
    if "result" not in ended:
        raise Trouble("the call did not survive its owner")
    if successor == owner:
        raise Trouble(f"slot {slot} is said to be owned by {owner} still, which was killed")
    return trace


def show_trace(mesh, trace: str) -> None:
    """Prints the spans of a trace as a tree, with the process of each; exporters may still be sending them."""
    spans: list[dict] = []
    processes: dict = {}
    # Exporters send what has ended every few seconds.
    quiet, end = monotonic(), monotonic() + 30
    while monotonic() < end and (not spans or monotonic() - quiet < QUIET_S):
        found = fetch(mesh, trace)
        if found and len(found["spans"]) != len(spans):
            spans, processes, quiet = found["spans"], found["processes"], monotonic()
        sleep(0.5)
    if not spans:
        raise Trouble(f"the trace {trace} did not arrive")
    ids = {span["spanID"] for span in spans}
    children: dict[str, list[dict]] = {}
    for span in sorted(spans, key=lambda span: span["startTime"]):
        parents = [reference["spanID"] for reference in span.get("references") or [] if reference["refType"] == "CHILD_OF"]
        parent = parents[0] if parents and parents[0] in ids else ""
        children.setdefault(parent, []).append(span)
    first = min(span["startTime"] for span in spans)

    def show(parent: str, depth: int) -> None:
        for span in children.get(parent, []):
            where = place(span, processes[span["processID"]])
            if any(reference["refType"] == "FOLLOWS_FROM" and reference["spanID"] in ids for reference in span.get("references") or []):
                where += ", goes on with what another began"
            at, took = (span["startTime"] - first) / 1e6, span["duration"] / 1e6
            print(f"{at:6.2f} s +{took:5.2f} s  {'  ' * depth}{span['operationName']}  [{where}]")
            show(span["spanID"], depth + 1)

    show("", 0)
    print(f"trace: {mesh.page()}/trace/{trace}")


def place(span: dict, process: dict) -> str:
    """Which process a span is of: session nodes say their names, others what they drew when they started."""
    own = {tag["key"]: tag["value"] for tag in span["tags"]}
    if process["serviceName"] == "trunkline-session" and "trunkline.owner" in own:
        return own["trunkline.owner"]
    tags = {tag["key"]: tag["value"] for tag in process.get("tags", [])}
    return tags.get("service.instance.id", process["serviceName"])


def fetch(mesh, trace: str) -> dict | None:
    try:
        with urllib.request.urlopen(f"{mesh.page()}/api/traces/{trace}", timeout=5) as answer:
            data = json.loads(answer.read())["data"]
    except (OSError, ValueError, KeyError):
        return None
    return data[0] if data else None
