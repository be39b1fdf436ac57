"""Brings about each trouble of docs/runbooks.md in a mesh of processes, does what the page says, and asks what clients see."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import ssl
import threading
import time
from contextlib import contextmanager

import wire
import words

URL = "http://127.0.0.1:8080/mcp"
SUM = {"name": "calculator", "arguments": {"operation": "add", "a": 2, "b": 40}}
TEAM = {**SUM, "name": "team__calculator"}
RIGHT = {"result": 42.0}
# The page promises less for each; a machine that is busy with other things may take its time.
SOON_S = 30
# Files are looked at every two seconds, and leases last for five.
LOOK_S, LEASE_S = 2.1, 7


class Troubles:
    """The mesh of the page, and one session that has to live through everything."""

    def __init__(self, guide):
        self.guide, self.processes = guide, guide.terminals.processes

    # -- the mesh -----------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        guide = self.guide
        guide.write("mesh.toml", "mesh", 'k1 = "..."', f'k1 = "{base64.b64encode(os.urandom(32)).decode()}"')
        for number, port in ((1, 2379), (2, 22379), (3, 32379)):
            text = guide.readme.block("yaml", "etcd").text.split("initial-cluster:")
            own = text[0].replace("etcd-1", f"etcd-{number}").replace("2379", str(port)).replace("2380", str(port + 1))
            self.file(f"etcd-{number}.yml", f"{own}initial-cluster:{text[1]}")
        for command in guide.readme.block("sh", "stores").commands():
            config = re.search(r"(etcd-\d)\.yml", command)
            guide.open(config[1] if config else "redis", command)
        guide.script("renew")
        self.edge("edge")
        guide.until("redis-cli ping || true", "PONG")
        self.until(lambda: guide.script("etcd-health"), AssertionError)
        for command in guide.readme.block("sh", "mesh").commands():
            self.role(command)
        self.session = self.until(lambda: wire.Session(URL).open(), AssertionError)
        self.goes_on()
        self.until(lambda: self.owned(), AssertionError)

    def role(self, command: str) -> str:
        port = re.search(r"--listen 127\.0\.0\.1:(\d+)", command)[1]
        name = (re.search(r"(?:session|telemetry)\.node=([\w-]+)", command) or re.search(r"(\w+)-registry", command))[1]
        name = name if port != "7202" else "team"
        self.guide.open(name, command).address(command.split()[1])
        return name

    def command(self, name: str) -> str:
        """How a process of the mesh was started."""
        commands = self.guide.readme.block("sh", "mesh").commands()
        ports = {"team": "7202", "session-1": "7101", "session-2": "7102", "gateway-1": "8080", "gateway-2": "8443"}
        return next(command for command in commands if f":{ports[name]} " in command)

    def again(self, name: str) -> None:
        self.processes[name].signal(signal.SIGTERM)
        code = self.processes[name].ended()
        assert code == 0, self.processes[name].report(f"ended with {code}")
        self.role(self.command(name))

    def file(self, name: str, text: str) -> None:
        (self.guide.cwd / name).write_text(text, encoding="utf-8")

    def edge(self, name: str) -> None:
        self.guide.type(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost"
            f" -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {name}.key -out {name}.pem 2>&1"
        )

    # -- what clients see ---------------------------------------------------------------------------------------------------------

    def goes_on(self) -> None:
        assert self.session.result("tools/call", SUM)["structuredContent"] == RIGHT

    def modern(self) -> None:
        said = wire.modern(URL, "tools/call", SUM).messages()[-1]
        assert said.get("result", {}).get("structuredContent") == RIGHT, said

    def new(self) -> wire.Session:
        session = wire.Session(URL).open()
        assert session.result("tools/call", SUM)["structuredContent"] == RIGHT
        return session

    def until(self, body, *also):
        """Does it again until it works."""
        end = time.monotonic() + SOON_S
        while True:
            try:
                return body()
            except (AssertionError, OSError, *also):
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def logged(self, text: str, *names: str, since: dict | None = None) -> None:
        """Waits until processes have said so."""

        def said() -> None:
            for name in names:
                log = self.processes[name].log.read_text(encoding="utf-8", errors="replace")
                assert text in log[(since or {}).get(name, 0):], f"{name} has not said: {text}"

        self.until(said)

    def marks(self, *names: str) -> dict[str, int]:
        return {name: len(self.processes[name].log.read_text(encoding="utf-8", errors="replace")) for name in names}

    def slot(self) -> int:
        return int(self.session.id.split(".")[2], 16)

    def owner(self) -> str:
        said = self.guide.type(f"ETCDCTL_API=3 etcdctl get --print-value-only /trunkline/slots/{self.slot()}")
        return json.loads(said)["node"]

    def owned(self) -> None:
        count = self.guide.type(self.guide.readme.block("sh", "slots").text).strip()
        assert count == "4096", f"{count} slots have owners"

    @contextmanager
    def load(self):
        """Calls of both eras all the time; none may fail."""
        stop, failed, done = threading.Event(), [], []
        session = self.new()

        def calls() -> None:
            while not stop.is_set():
                try:
                    assert session.result("tools/call", SUM)["structuredContent"] == RIGHT
                    self.modern()
                    done.append(2)
                except (AssertionError, OSError, http.client.HTTPException, KeyError) as error:
                    failed.append(repr(error))

        thread = threading.Thread(target=calls)
        thread.start()
        try:
            yield
            # Some come after it in any case.
            before = sum(done)
            self.until(lambda: self.more(failed or sum(done) >= before + 20))
        finally:
            stop.set()
            thread.join()
        assert not failed, f"{len(failed)} of {sum(done) + len(failed)} failed: {failed[:3]}"

    @staticmethod
    def more(enough: bool) -> None:
        assert enough, "there are too few calls"

    # -- the runbooks -------------------------------------------------------------------------------------------------------------

    def hot_slot(self) -> None:
        before = self.owner()
        node = "session-2" if before == "session-1" else "session-1"
        os.environ.update(SLOT=str(self.slot()), NODE=node)
        with self.load():
            said = self.guide.script("move")
        assert f"slot {self.slot()} is to be owned by {node}, and is owned by {node}" in said, said
        assert self.owner() == node
        self.goes_on()
        self.guide.script("move-back")
        assert "no slot was moved" in self.guide.type("trunkline move --config mesh.toml")

    def keys(self) -> None:
        everybody = ("session-1", "session-2", "gateway-1", "gateway-2")
        for label in ("key-add", "key-current"):
            marks = self.marks(*everybody)
            self.guide.script(label)
            self.logged("the configuration was read again", *everybody, since=marks)
            self.goes_on()
        new = self.new()
        assert (self.session.id.split(".")[1], new.id.split(".")[1]) == ("k1", "k2"), new.id
        # Nodes of before and after the change deal with registries under one name.
        for node in ("session-1", "session-2"):
            self.again(node)
            self.goes_on()
        marks = self.marks(*everybody)
        self.guide.script("key-remove")
        self.logged("the configuration was read again", *everybody, since=marks)
        gone = self.session.send("tools/call", SUM)
        assert gone.status == 404, gone.status
        self.session = new
        self.goes_on()

    def shown(self) -> str:
        """The serial number that the edge shows."""
        return re.search(r"serial=(\w+)", self.guide.script("dates"))[1]

    def ends(self) -> dict[str, int]:
        """When the certificates of a gateway end, by purpose, as it tells."""
        told = self.guide.script("ends")
        return {purpose: round(float(end)) for purpose, end in re.findall(r'purpose="(\w+)"\} (\S+)', told)}

    def certificates(self) -> None:
        began = self.ends()
        assert set(began) == {"mesh", "edge"} and all(end > time.time() for end in began.values()), began
        with self.load():
            for label in ("renew", "authority-both", "authority-new", "authority-only"):
                self.guide.script(label)
                # As long as the page says.
                time.sleep(LOOK_S)
            # It has to shake hands with everybody.
            self.again("gateway-2")
        context = ssl.create_default_context(cafile=str(self.guide.cwd / "edge.pem"))
        open_before = http.client.HTTPSConnection("127.0.0.1", 8443, context=context, timeout=10)
        assert self.over(open_before) == RIGHT
        before = self.shown()
        self.edge("renewed-edge")
        self.guide.script("edge")

        def changed() -> None:
            assert self.shown() != before, "the edge still shows the old certificate"

        self.until(changed)
        ends = self.ends()
        assert ends["mesh"] > began["mesh"] and ends["edge"] != began["edge"], (began, ends)
        assert self.over(open_before) == RIGHT, "an open connection was not kept"
        # It has gone on without a new handshake, which its client would have refused.
        open_before.close()
        context = ssl.create_default_context(cafile=str(self.guide.cwd / "edge.pem"))
        assert self.over(http.client.HTTPSConnection("127.0.0.1", 8443, context=context, timeout=10)) == RIGHT

    def over(self, connection: http.client.HTTPSConnection) -> dict:
        connection.auto_open = 1 if connection.sock is None else 0
        message = wire.modern_request("tools/call", SUM)
        connection.request("POST", "/mcp", json.dumps(message), {**wire.BOTH, **wire.modern_headers(message)})
        return json.loads(connection.getresponse().read())["result"]["structuredContent"]

    def reached(self) -> None:
        """Both nodes know both registries."""
        for port in (9101, 9102):
            said = self.guide.type(f"curl -s http://127.0.0.1:{port}/metrics | grep '^trunkline_registry_up' || true")
            up = [line for line in said.splitlines() if line.endswith(" 1")]
            assert len(up) == 2, said

    def stuck(self) -> None:
        team = self.processes["team"]
        self.until(self.reached)
        assert self.session.result("tools/call", TEAM)["structuredContent"] == RIGHT
        marks = self.marks("session-1", "session-2")
        team.signal(signal.SIGSTOP)
        waiting = self.session.send("tools/call", TEAM)
        try:
            for text in ("registry withdrawn", "registry's entries are no longer listed"):
                self.logged(text, "session-1", "session-2", since=marks)
            refused = self.session.send("tools/call", TEAM).messages()[-1]
            assert refused["error"]["message"] == "Unknown tool: team__calculator", refused
            self.goes_on()
            self.modern()
            unknown = waiting.messages()[-1]
            assert unknown["error"]["data"]["outcome"] == "unknown", unknown
            # The page asks one node; here it is the one that has the session.
            port = f":910{self.owner()[-1]}/"
            up, lost = (command.replace(":9101/", port) for command in self.guide.readme.block("sh", "stuck").commands())
            assert "trunkline_registry_up{" in self.guide.type(up)
            os.environ["PID"] = str(team.pid)
            self.guide.type(self.guide.only("end").replace("-TERM", "-KILL"))
            team.ended()
            self.until(lambda: self.guide.type(lost))
        finally:
            team.kill()
        self.role(self.command("team"))
        self.until(lambda: self.session.result("tools/call", TEAM), KeyError)

    def full_redis(self) -> None:
        self.guide.type("redis-cli config set maxmemory 1")
        refused = self.session.send("tools/call", SUM)
        assert refused.status == 503 and refused.headers["retry-after"], refused.status
        self.modern()
        begun = wire.post(URL, wire.request("initialize", {"protocolVersion": "2025-11-25", "capabilities": {},
                                                           "clientInfo": {"name": "guide", "version": "1"}}), {})
        assert begun.status == 503 and begun.headers["retry-after"], begun.status
        said = self.guide.script("redis-memory")
        assert "noeviction" in said and "OOM" in said, said
        assert "code=OOM" in "".join(self.processes[node].log.read_text(encoding="utf-8") for node in ("session-1", "session-2"))
        self.guide.script("redis-more")
        self.goes_on()
        self.new()

    def quorum(self) -> None:
        for name in ("etcd-2", "etcd-3"):
            self.processes[name].kill()
        said = self.guide.type(f"({self.guide.readme.block('sh', 'etcd-health').text}) 2>&1", ends=1)
        assert said.count("is unhealthy") == 3, said
        self.logged("lease is not renewed", "session-1", "session-2")
        end = time.monotonic() + LEASE_S
        while time.monotonic() < end:
            self.goes_on()
            self.modern()
        self.new()
        one = (self.guide.cwd / "etcd-1.yml").read_text(encoding="utf-8")
        self.file("etcd-1-alone.yml", f"{one}force-new-cluster: true\n")
        self.processes["etcd-1"].stop()
        marks = self.marks("session-1", "session-2")
        self.guide.open("etcd-1", self.guide.only("etcd-alone"))
        self.until(self.owned)
        self.guide.script("etcd-member")
        members = "initial-cluster: etcd-1=http://127.0.0.1:2380,etcd-2=http://127.0.0.1:22380\ninitial-cluster-state: existing\n"
        two = (self.guide.cwd / "etcd-2.yml").read_text(encoding="utf-8").split("initial-cluster:")[0]
        self.file("etcd-2-again.yml", two + members)
        self.guide.open("etcd-2", self.guide.only("etcd-second"))
        self.until(lambda: self.guide.type("ETCDCTL_API=3 etcdctl --endpoints http://127.0.0.1:2379,http://127.0.0.1:22379 endpoint health 2>&1"))
        self.logged("lease is renewed again", "session-1", "session-2", since=marks)
        self.until(self.owned)
        self.goes_on()
        # Slots move again.
        owner = self.owner()
        self.processes[owner].kill()
        self.until(self.goes_on)
        self.role(self.command(owner))

    def metrics(self) -> None:
        """All that docs/watching.md lists is there to be read, but for the file of one process and spans, which this mesh has not."""
        # Lives of sessions are counted when they end.
        assert self.new().delete().status == 200
        said = "".join(self.guide.type(f"curl -sf http://127.0.0.1:{port}/metrics") for port in (9101, 9102, 9201, 9301))
        listed = {metric[1] for word in words.named(words.ROOT / "docs" / "watching.md") if (metric := words.METRIC.match(word))}
        missing = {name for name in listed if name not in said and "_file_" not in name and "_telemetry_" not in name}
        assert listed and not missing, missing

    def empty_etcd(self) -> None:
        for name in ("etcd-1", "etcd-2"):
            self.processes[name].kill()
        self.guide.script("etcd-empty")
        for command in self.guide.readme.block("sh", "stores").commands():
            if config := re.search(r"(etcd-\d)\.yml", command):
                self.guide.open(config[1], command)
        self.until(self.owned)
        self.goes_on()
        self.new()

    def upgrade(self) -> None:
        script = self.guide.readme.block("text", "rehearse").text.split()[0]
        assert os.access(self.guide.root / script, os.X_OK), script
        with self.load():
            for node in ("session-1", "session-2"):
                self.again(node)
                address = self.guide.only("ready").split()[-1]
                assert address in self.command("session-1")
                self.guide.until(f"{self.guide.only('ready').replace(address, '127.0.0.1:910' + node[-1])} 2>&1 || true", "ready")
        assert "trunkline_build_info{" in self.guide.type(self.guide.only("version"))
        self.goes_on()


def follow(guide, _containers: bool) -> None:
    troubles = Troubles(guide)
    guide.step("settings, metrics, alerts and log lines that pages name are there", words.check)
    guide.step("start the mesh of the page", troubles.begin)
    guide.step("a hot slot is moved, no call fails", troubles.hot_slot)
    guide.step("certificates and their authority are changed, no call fails", troubles.certificates)
    guide.step("keys are changed: sessions go on until their key is gone", troubles.keys)
    guide.step("session nodes are replaced one after the other, no call fails", troubles.upgrade)
    guide.step("a registry that does not answer is found and ended", troubles.stuck)
    guide.step("Redis is full: sessions wait, others do not", troubles.full_redis)
    guide.step("the metrics of docs/watching.md are there", troubles.metrics)
    guide.step("two of three etcd are lost: nobody notices; the third begins anew", troubles.quorum)
    guide.step("all of etcd is lost: sessions go on with an empty one", troubles.empty_etcd)
