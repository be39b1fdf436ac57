"""Brings the whole stack up in containers and shows that it does what it is for: `scripts/compose`.

What `scripts/dev` does is done by its commands, each of which has to say what it did and where to look. Through nginx: calls of both eras
whose traces, read back from the trace store, have every hop; an event stream that is held for three minutes; a call that outlives the
owner of its session; a rolling restart under load in which no call fails; five session nodes. Then docs/growing.md is followed into
containers and back. It ends within twelve minutes, and leaves nothing behind. SKIPPED is only said where the engine itself cannot start.
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS))
sys.path.insert(0, str(TOOLS.parents[1] / "tests" / "harness"))

import debian
import docker as engine
import images
import stack
import wire
from docker import ROOT, docker
from say import Trouble, say
from stack import Stack
from steps import Over, Steps
from traces import Page

# All of it, with what has to be cleaned up afterwards still to come.
LIMIT_S = 620
HELD_S = 180
# Gateways say something every 15 s, so that nobody on the way takes the stream for dead.
SILENCE_S = 25
CALLERS = 4
# The image, made of programs of either kind. It holds them and their libraries.
LARGEST_MB = {"release": 80, "debug": 120}
LABELS = ("title", "description", "licenses", "version", "revision")
# How many in a hundred calls may be told to come again while everything restarts.
AGAIN = 1
# How long somebody who is told to end may take for that.
ENDS_S = 20
GUIDE = ROOT / "tests" / "guide" / "guide.py"
LOGS = ROOT / "target" / "test-logs" / "compose"
SUM = {"name": "calculator", "arguments": {"operation": "add", "a": 2, "b": 40}}


class Proof(Steps):
    """What the stack has to show."""

    def __init__(self, mesh: Stack, home: Path):
        self.mesh, self.home = mesh, home
        super().__init__()
        self.stream: Held | None = None

    # -- the steps --------------------------------------------------------------------------------------------------------------

    def dev(self, *words: str, says: tuple[str, ...] = (), shows: tuple[str, ...] = ()) -> str:
        """Types `scripts/dev ..`; what it prints. It has to say certain things, and to show how far it is."""
        code, said, shown = typed(str(TOOLS / "dev.py"), *words, TRUNKLINE_DEV_HOME=str(self.home))
        assert code == 0, f"scripts/dev {' '.join(words)}: exit code {code}: {said[-2000:]} {shown[-2000:]}"
        for expected, where in [*((words, said) for words in says), *((words, shown) for words in shows)]:
            assert re.search(expected, where, re.MULTILINE), f"scripts/dev {' '.join(words)} does not say {expected!r}: {where[-2000:]}"
        return said

    def up(self) -> str:
        begun = monotonic()
        self.mesh.save(self.home)
        where = (f"^clients: +{self.mesh.url()}$", f"^traces: +{self.mesh.page()}$", f"^metrics: +{self.mesh.prometheus()} ")
        progress = r"^\[ *[\d.]+ s\] \d+ containers run, [1-9]\d* of them say that they are healthy$"
        self.dev("up", says=(*where, "^containers: .*scripts/dev logs", "^try: .*kill-owner"), shows=(progress,))
        self.mesh = Stack.load(self.home)
        count = len(self.mesh.compose("ps", "--quiet").split())
        standing = ", ".join(sorted(image.split(":")[0].rsplit("/", 1)[-1] for image in self.mesh.stand_ins))
        return f"{count} containers healthy after {monotonic() - begun:.0f} s with their images; stand-ins: {standing or 'none'}"

    def commands(self) -> str:
        """What shows what goes on, and says where more of it is."""
        said = self.dev("call", says=(r"\b42\b", f"^trace: {self.mesh.page()}/trace/[0-9a-f]{{32}} .*scripts/dev trace$"))
        trace = re.findall(r"/trace/([0-9a-f]{32})", said)[-1]
        spans = self.dev("trace", says=(r"tools/call calculator  \[", f"^trace: {self.mesh.page()}/trace/{trace}$"))
        where = f"scripts/dev logs .*{self.mesh.url()} .*{self.mesh.page()} .*{self.mesh.prometheus()}$"
        self.dev("status", says=(r"gateway-2 .*\(healthy\)", where))
        self.dev("logs", "--tail", "3", "session", "gateway", says=(r"session-3 +\| \S", r"gateway-2 +\| \S", "scripts/dev logs --tail"))
        return f"call, trace ({spans.count(' s +')} spans), status, logs"

    def published(self) -> str:
        """Nothing can be reached from another machine."""
        ports = self.mesh.compose("ps", "--format", "{{.Ports}}").split(", ")
        mapped = [port.strip() for line in ports for port in line.splitlines() if "->" in port]
        assert mapped and all(port.startswith("127.0.0.1:") for port in mapped), mapped
        return ", ".join(sorted(mapped))

    def confined(self) -> str:
        """Our containers have no rights, no shell and nowhere to write to."""
        form = "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.Config.Image}}"
        for service in stack.ROLLED:
            for container in self.mesh.containers(service):
                said = docker("inspect", "--format", form, container).split()
                assert said[:3] == ["65532:65532", "true", "[ALL]"], (service, said)
                assert "no-new-privileges" in docker("inspect", "--format", "{{.HostConfig.SecurityOpt}}", container)
        labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", said[3]))
        unlabelled = [name for name in LABELS if not labels.get(f"org.opencontainers.image.{name}")]
        assert not unlabelled, f"the image has no {', '.join(unlabelled)}: {labels}"
        size = int(docker("image", "inspect", "--format", "{{.Size}}", said[3])) / 1e6
        most = LARGEST_MB[images.built("trunkline").parent.name]
        assert size <= most, f"the image has {size:.0f} MB, at most {most}"
        return f"read only, no capabilities, user 65532; the image has {size:.0f} MB here, and its labels"

    def traced_modern(self) -> str:
        trace, context = context_of()
        message = wire.modern_request("tools/call", SUM)
        answer = wire.post(self.mesh.url(), message, {**wire.modern_headers(message), "traceparent": context})
        return self.traced(answer, trace)

    def traced_older(self) -> str:
        session = wire.Session(self.mesh.url()).open()
        trace, context = context_of()
        answer = wire.post(self.mesh.url(), wire.request("tools/call", SUM), {**session.headers(), "traceparent": context})
        return self.traced(answer, trace)

    def traced(self, answer: wire.Answer, id: str) -> str:
        said = answer.messages()[-1]
        assert said.get("result", {}).get("structuredContent") == {"result": 42.0}, said
        hops = {
            "trunkline-gateway": "tools/call calculator",
            "trunkline-session": "trunkline.session tools/call",
            "trunkline-tool-registry": "tools/call calculator",
        }
        page = Page(self.mesh.page())

        def whole(trace) -> bool:
            return all(any(span.name == name for span in trace.of(service)) for service, name in hops.items())

        trace = page.find(lambda: page.trace(id), whole, f"{id} with {', '.join(hops)}")
        (innermost, *_rest) = trace.of("trunkline-tool-registry")
        path = [span.service for span in trace.path(innermost)]
        assert path == ["trunkline-gateway", "trunkline-session", "trunkline-session", "trunkline-tool-registry"], str(trace)
        return " > ".join(path)

    def turns(self) -> str:
        """Requests are spread over both gateways."""
        counted = 'sum by (instance) (mcp_server_operation_duration_seconds_count{role="gateway"})'
        before = {found["metric"]["instance"]: float(found["value"][1]) for found in stack.query(self.mesh, counted)}
        for _ in range(60):
            wire.modern(self.mesh.url(), "tools/call", SUM).messages()
        end, shares = monotonic() + 30, {}
        while monotonic() < end and sum(shares.values()) < 60:
            sleep(0.5)
            now = {found["metric"]["instance"]: float(found["value"][1]) for found in stack.query(self.mesh, counted)}
            shares = {instance: count - before.get(instance, 0.0) for instance, count in now.items()}
        assert len(shares) == 2 and min(shares.values()) >= 10, shares
        return "of 60 calls " + " and ".join(f"{share:.0f}" for share in shares.values())

    def watched(self) -> str:
        """Prometheus reads everything, understands the rules, and nothing critical is wrong."""
        end, up = monotonic() + 40, []
        while monotonic() < end:
            up = stack.query(self.mesh, "up")
            if len(up) == 14 and all(found["value"][1] == "1" for found in up):
                break
            sleep(0.5)
        assert len(up) == 14 and all(found["value"][1] == "1" for found in up), up
        # Nodes are read one after the other: a slot that moves meanwhile is seen twice, or not at all.
        end, owned, slots = monotonic() + 60, "", self.mesh.slots()
        while monotonic() < end and owned != str(slots):
            sleep(0.5)
            owned = stack.query(self.mesh, "sum(trunkline_slots_owned)")[0]["value"][1]
        assert owned == str(slots), f"{owned} of {slots} slots are owned"
        with urllib.request.urlopen(f"{self.mesh.prometheus()}/api/v1/rules", timeout=10) as answer:
            rules = [rule for group in json.loads(answer.read())["data"]["groups"] for rule in group["rules"]]
        assert rules and all(rule["health"] in ("ok", "unknown") for rule in rules), rules
        firing = {rule["name"]: rule["labels"]["severity"] for rule in rules if rule["state"] == "firing"}
        assert "critical" not in firing.values(), firing
        return f"{len(up)} targets, {len(rules)} alerts, firing: {', '.join(firing) or 'none'}, {slots} slots owned"

    def hold(self) -> str:
        self.stream = Held(self.mesh.url())
        return "a GET of an older session"

    def held(self) -> str:
        """After three minutes the stream tells that a team's registry has come."""
        stream = self.stream
        assert stream is not None
        while stream.age() < HELD_S and not stream.ended:
            sleep(0.2)
        assert not stream.ended, f"it ended after {stream.age():.0f} s: {stream.ended}"
        assert stream.silence < SILENCE_S, f"nothing came for {stream.silence:.0f} s"
        self.mesh.compose("--profile", "team", "up", "--detach", "--wait", "--no-recreate", "team")
        assert stream.told.wait(30), f"nobody told it of the new registry: {stream.seen}"
        stream.close()
        names = [tool["name"] for tool in wire.modern(self.mesh.url(), "tools/list").json()["result"]["tools"]]
        assert "team__echo" in names, names
        return f"{stream.age():.0f} s, {stream.seen['comment']} comments, then {stream.seen['list_changed']} news of the new registry"

    def kill_owner(self) -> str:
        said = self.dev("kill-owner", says=(r"docker kill \S+-session-\d+$", r"^pause ", "is started again$", f"^trace: {self.mesh.page()}/trace/"))
        print(said, end="", flush=True)
        before, after = (re.search(pattern, said) for pattern in (r"which (\S+) owns", r"is owned by (\S+) now"))
        assert before and after and before[1] != after[1], "its owner was not replaced"
        return "its result came on the connection that had been waiting"

    def roll(self) -> str:
        with Load(self.mesh.url()) as load:
            begun = monotonic()
            done, progress = "^every container .* was restarted in .*scripts/dev call$", "gateway-2 was restarted: it stopped when it had drained"
            self.dev("roll", says=(done,), shows=(progress,))
            took = monotonic() - begun
        calls = sum(load.counts.values())
        assert not load.failures, f"{len(load.failures)} of {calls} calls failed: {load.failures[:5]}"
        assert load.again * 100 <= calls * AGAIN, f"{load.again} of {calls} calls were told to come again, at most {AGAIN} in 100"
        assert load.counts["modern"] > 50 and load.counts["older"] > 50, load.counts
        return (
            f"11 containers in {took:.0f} s, {calls} calls ({dict(load.counts)}), 0 failed, {load.again} were asked to come again, "
            f"the slowest took {load.slowest:.2f} s"
        )

    def scale(self) -> str:
        self.mesh.up("--scale", "session=5", "--no-recreate")
        end, shares = monotonic() + 60, {}
        while monotonic() < end:
            said = self.mesh.etcd("get", "--prefix", "--print-value-only", f"{stack.PREFIX}/slots/")
            shares = Counter(json.loads(line)["node"] for line in said.splitlines() if line)
            if len(shares) == 5 and sum(shares.values()) == self.mesh.slots():
                break
            sleep(0.5)
        assert len(shares) == 5, shares
        wire.Session(self.mesh.url()).open().result("tools/call", SUM)
        return "slots of the five: " + ", ".join(str(count) for count in sorted(shares.values()))

    def down(self) -> str:
        begun = monotonic()
        (count,) = re.findall(r"^(\d+) containers ended, their volumes are removed", self.dev("down"), re.MULTILINE)
        left = docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={self.mesh.settings['COMPOSE_PROJECT_NAME']}")
        assert not left.split(), left
        return f"{count} containers ended within {monotonic() - begun:.0f} s"

    def grown(self) -> str:
        """The way of docs/growing.md, with the steps that take containers; on the ports that it names."""
        debian.run([str(ROOT / "scripts" / "install"), "curl=curl", "openssl=openssl"])
        debian.run([str(ROOT / "scripts" / "stores")])
        code, said, _shown = typed(str(GUIDE), str(images.built("trunkline").parent), "growing", "--containers")
        steps = re.findall(r"^ok +[\d.]+ s +containers: (.*)$", said, re.MULTILINE)
        assert code == 0 and len(steps) == 4, said[-3000:]
        return "; ".join(steps)

    def keep_logs(self) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        said = self.mesh.compose("--profile", "*", "logs", "--no-color", "--timestamps", check=False)
        (LOGS / "containers.log").write_text(said, encoding="utf-8")
        print(f"what the containers said: {(LOGS / 'containers.log').relative_to(ROOT)}", flush=True)

    def run(self) -> None:
        if not self.step("up", self.up):
            return
        self.step("stream begins", self.hold)
        for name in ("published", "confined", "commands", "traced modern", "traced older", "turns", "watched"):
            self.step(name, getattr(self, name.replace(" ", "_")))
        self.step("stream held", self.held)
        for name in ("kill-owner", "roll", "scale"):
            self.step(name, getattr(self, name.replace("-", "_")))
        if self.failed:
            self.keep_logs()
        for name in ("down", "grown"):
            self.step(name, getattr(self, name))


    def left(self) -> None:
        """Ends what runs still, which is something only after a failure."""
        project = f"label=com.docker.compose.project={self.mesh.settings['COMPOSE_PROJECT_NAME']}"
        try:
            if docker("ps", "--all", "--quiet", "--filter", project, check=False).split():
                self.keep_logs()
            self.mesh.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "10", check=False, timeout=60)
        except Trouble as trouble:
            print(f"FAILED  what is left does not end: {trouble}", flush=True)
            self.failed += 1


class Held:
    """A stream for news of one session, read all the time."""

    def __init__(self, url: str):
        self.answer = wire.Session(url).open().get()
        assert self.answer.status == 200, self.answer.status
        self.begun = self.last = monotonic()
        self.silence, self.ended = 0.0, ""
        self.seen: Counter[str] = Counter()
        self.told = threading.Event()
        threading.Thread(target=self.read, daemon=True).start()

    def age(self) -> float:
        return monotonic() - self.begun

    def read(self) -> None:
        try:
            while (event := self.answer.event()) is not None:
                now = monotonic()
                self.silence, self.last = max(self.silence, now - self.last), now
                if event.comment is not None:
                    self.seen["comment"] += 1
                if event.data and "list_changed" in event.data:
                    self.seen["list_changed"] += 1
                    self.told.set()
            self.ended = "the other end closed it"
        except (OSError, ValueError, AttributeError) as error:
            self.ended = str(error) or type(error).__name__

    def close(self) -> None:
        self.answer.close()


class Load:
    """Callers of both eras who call as fast as they are answered."""

    def __init__(self, url: str):
        self.url, self.slowest, self.again = url, 0.0, 0
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.stop = threading.Event()
        callers = [self.modern] * CALLERS + [self.older] * CALLERS
        self.threads = [threading.Thread(target=self.call, args=(caller,), daemon=True) for caller in callers]

    def __enter__(self) -> "Load":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_exc) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(wire.READ_S + 5)

    def modern(self):
        return "modern", lambda: wire.modern(self.url, "tools/call", SUM)

    def older(self):
        session = wire.Session(self.url).open()
        return "older", lambda: session.send("tools/call", SUM)

    def call(self, caller) -> None:
        era, ask = caller()
        while not self.stop.is_set():
            begun = monotonic()
            try:
                answer = self.asked(ask)
                said = answer.messages()[-1]
                if answer.status != 200 or said.get("result", {}).get("structuredContent") != {"result": 42.0}:
                    self.failures.append(f"{era}: {answer.status} {said}")
            except (OSError, ValueError, IndexError, AssertionError) as error:
                self.failures.append(f"{era}: {type(error).__name__} {error}")
            self.counts[era] += 1
            self.slowest = max(self.slowest, monotonic() - begun)
            # As many calls as a busy machine can bear beside its builds.
            self.stop.wait(0.02)

    def asked(self, ask) -> wire.Answer:
        """What a client does: who is told to come again, because nothing of the call was done, comes again, three times at most."""
        for _ in range(3):
            answer = ask()
            if answer.status != 503 or not answer.headers["retry-after"]:
                return answer
            answer.close()
            self.again += 1
            sleep(min(2.0, float(answer.headers["retry-after"])))
        return ask()


def typed(*words: str, **settings: str) -> tuple[int, str, str]:
    """Runs a script of ours with what it starts: its exit code, what it prints, and how far it said that it was."""
    env = {**os.environ, **settings, "PYTHONUNBUFFERED": "1"}
    argv = [sys.executable, *words]
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        try:
            said, shown = running.communicate()
        except BaseException:
            running.terminate()
            with suppress(subprocess.TimeoutExpired):
                running.communicate(timeout=ENDS_S)
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            raise
    print(shown, end="", file=sys.stderr, flush=True)
    return running.returncode, said, shown


def context_of() -> tuple[str, str]:
    """The id of a new trace, and the header that begins it."""
    trace = secrets.token_hex(16)
    return trace, f"00-{trace}-{secrets.token_hex(8)}-01"


def free_ports(*names: str) -> dict[str, str]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: str(listener.getsockname()[1]) for name, listener in zip(names, held, strict=True)}
    for listener in held:
        listener.close()
    return ports


def begin_engine() -> engine.OwnEngine | None:
    """An engine that answers: the one that is there, or one of our own."""
    if engine.engine_answers():
        say("using the container engine of this machine")
        return None
    try:
        engine.install_engine()
    except Trouble as trouble:
        print(f"FAILED  the container engine cannot be installed: {trouble}\n0 passed, 1 failed")
        sys.exit(1)
    own = engine.OwnEngine()
    try:
        own.start()
    except Trouble as trouble:
        own.stop()
        print(f"SKIPPED: no container engine can be started here: {trouble}")
        sys.exit(0)
    say("started a container engine of our own")
    return own


def out_of_time(number: int, _frame) -> None:
    raise Over(f"not done after {LIMIT_S} s" if number == signal.SIGALRM else f"ended by signal {number}")


def main() -> int:
    own = begin_engine()
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, out_of_time)
    signal.alarm(LIMIT_S)
    settings = free_ports("TRUNKLINE_PORT", "JAEGER_PORT", "PROMETHEUS_PORT")
    mesh = Stack.new(["demo"], COMPOSE_PROJECT_NAME=f"trunkline-proof-{os.getpid()}", TRUNKLINE_VERSION="proof", **settings)
    home = tempfile.TemporaryDirectory(prefix="trunkline-proof-")
    proof = Proof(mesh, Path(home.name))
    try:
        engine.need_plugins()
        proof.run()
    except (Trouble, Over) as trouble:
        proof.over(trouble)
    finally:
        signal.alarm(0)
        # What is left to do is bounded, and is done.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        proof.left()
        home.cleanup()
        if own:
            own.stop()
    return proof.sum()


if __name__ == "__main__":
    sys.exit(main())
