"""The mesh in containers: how it is brought up, asked about, and ended.

Owns: the compose project with its settings, which are remembered between commands. What a call that outlives its owner looks like is
`demo.py`'s, for processes and containers alike.
"""

import json
import os
import secrets
import subprocess
import urllib.parse
import urllib.request
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, sleep

import builder
import docker as engine
import images
from docker import ROOT, docker
from say import Trouble, say

# Another one for a second mesh, that others start and end.
HOME = Path(os.environ.get("TRUNKLINE_DEV_HOME", ROOT / ".trunkline" / "dev"))
STATE = HOME / "compose.json"
FILE = ROOT / "compose" / "compose.yaml"
PREFIX = "/trunkline"
ETCD = ("etcd-1", "etcd-2", "etcd-3")
# Registries first, the edge last: whoever is asked is there before those who ask.
ROLLED = ("tool-registry", "resource-registry", "prompt-registry", "session", "gateway")
DEMO = '[{ address = "demo:7204", namespace = "demo" }]'
HEALTHY_S = 90
UP_S = 120


class Stack:
    """One compose project."""

    slow = "demo__slow"

    def __init__(self, settings: dict[str, str], stand_ins: dict[str, str] | None = None):
        self.settings = settings
        self.stand_ins = stand_ins or {}

    @classmethod
    def new(cls, profiles: list[str], **settings: str) -> "Stack":
        """With a key of its own. `settings` are variables of compose.yaml."""
        key = b64encode(secrets.token_bytes(32)).decode()
        return cls({"COMPOSE_PROFILES": ",".join(profiles), "TRUNKLINE_KEY": key, "TRUNKLINE_REGISTRIES": DEMO, **settings})

    @classmethod
    def load(cls, home: Path = HOME) -> "Stack":
        if not (home / STATE.name).is_file():
            raise Trouble("nothing is up: scripts/dev up")
        known = json.loads((home / STATE.name).read_text(encoding="utf-8"))
        return cls(known["settings"], known["stand_ins"])

    def save(self, home: Path = HOME) -> None:
        home.mkdir(parents=True, exist_ok=True)
        (home / STATE.name).write_text(json.dumps({"settings": self.settings, "stand_ins": self.stand_ins}, indent=1), encoding="utf-8")

    def compose(self, *args: str, show: bool = False, check: bool = True, timeout: float = 600) -> str:
        """Runs `docker compose ..` with the settings of this project."""
        argv = ["docker", "compose", "--file", str(FILE), "--ansi", "auto" if show else "never", *args]
        env = {**os.environ, **self.settings}
        out = None if show else subprocess.PIPE
        try:
            done = subprocess.run(argv, env=env, stdout=out, stderr=out, text=True, check=False, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise Trouble(f"docker compose {' '.join(args[:3])} has not ended after {timeout:.0f} s") from error
        if check and done.returncode:
            said = "" if show else f": {(done.stderr or done.stdout).strip()[-3000:]}"
            raise Trouble(f"docker compose {' '.join(args[:3])} failed{said}")
        return done.stdout or ""

    # -- where it is ------------------------------------------------------------------------------------------------------------

    def port(self) -> int:
        return int(self.settings.get("TRUNKLINE_PORT", "8080"))

    def url(self) -> str:
        return f"http://127.0.0.1:{self.port()}/mcp"

    def page(self) -> str:
        return f"http://127.0.0.1:{self.settings.get('JAEGER_PORT', '16686')}"

    def prometheus(self) -> str:
        return f"http://127.0.0.1:{self.settings.get('PROMETHEUS_PORT', '9090')}"

    # -- up and down ------------------------------------------------------------------------------------------------------------

    def provide(self, force: bool = False) -> None:
        """Sees to it that there are images: built from the sources where the builder's image can be had."""
        named = sorted(set(self.compose("config", "--images").split()))
        theirs = [image for image in named if not image.startswith("trunkline")]
        if any("grafana" in image for image in theirs) and (force or not images.obtainable(theirs)):
            raise Trouble("Grafana has no stand-in, and images cannot be pulled: leave --dashboards out")
        self.stand_ins = images.provide(theirs, force)
        from_here = bool(self.stand_ins) or force or not images.obtainable([builder.named()])
        if from_here:
            say("the image of trunkline is made of this machine's build")
            images.build(self.settings.get("TRUNKLINE_VERSION", "dev"))
        else:
            say("building the image of trunkline from the sources; the first time takes some minutes")
            self.compose("build", show=True, timeout=3600)

    def up(self, *extra: str) -> None:
        """Starts what does not run, and waits until all of it is healthy and every slot has an owner."""
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(self.compose, "up", "--detach", "--wait", "--wait-timeout", str(UP_S), *extra, timeout=2 * UP_S)
            said = ""
            while not starting.done():
                sleep(1)
                now = self.progress()
                if now != said:
                    say(now)
                    said = now
            starting.result()
        self.owned()

    def progress(self) -> str:
        states = [line.split("\t") for line in self.compose("ps", "--format", "{{.State}}\t{{.Health}}", check=False).splitlines()]
        healthy = sum(1 for state in states if state[-1] == "healthy")
        return f"{len(states)} containers run, {healthy} of them say that they are healthy"

    def owned(self, seconds: float = 60) -> None:
        end = monotonic() + seconds
        while True:
            slots, count = self.slots(), len(self.etcd("get", "--prefix", "--keys-only", f"{PREFIX}/slots/").split())
            if count == slots:
                return
            if monotonic() > end:
                raise Trouble(f"{count} slots have an owner after {seconds:.0f} s, of {slots or 'a mesh without any'}")
            sleep(0.3)

    def slots(self) -> int | None:
        """How many the mesh was made with; None before its first session node."""
        made = self.etcd("get", "--print-value-only", f"{PREFIX}/mesh/slots")
        return json.loads(made)["slots"] if made.strip() else None

    def down(self) -> int:
        count = len(self.compose("ps", "--quiet").split())
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "30", timeout=90)
        return count

    # -- what is in it ----------------------------------------------------------------------------------------------------------

    def containers(self, service: str) -> list[str]:
        """Short ids, which are the host names."""
        return [found[:12] for found in self.compose("ps", "--quiet", service).split()]

    def etcd(self, *args: str) -> str:
        """Asks etcd, whichever member answers."""
        trouble = Trouble("etcd does not answer")
        for member in ETCD:
            try:
                return self.compose("exec", "-T", member, "etcdctl", "--command-timeout=3s", *args, timeout=30)
            except Trouble as error:
                trouble = error
        raise trouble

    def owner(self, slot: int) -> str:
        """Which session node owns a slot: the name of its container."""
        said = self.etcd("get", "--print-value-only", f"{PREFIX}/slots/{slot}").strip()
        if not said:
            raise Trouble(f"nobody owns slot {slot}")
        return name_of(json.loads(said)["node"])

    def kill(self, name: str) -> str:
        docker("kill", name)
        return f"docker kill {name}"

    def start_role(self, name: str) -> None:
        docker("start", name)
        healthy(name)

    def roll(self) -> float:
        """Restarts everything of ours, one container after the other, each once the one before is healthy."""
        begun = monotonic()
        for service in ROLLED:
            for container in self.containers(service):
                name, since = name_of(container), monotonic()
                docker("restart", "--time", "30", container)
                healthy(container)
                say(f"{name} was restarted: it stopped when it had drained, and was healthy after {monotonic() - since:.1f} s")
        self.owned()
        return monotonic() - begun


def healthy(container: str) -> None:
    end = monotonic() + HEALTHY_S
    while (state := docker("inspect", "--format", "{{.State.Health.Status}}", container).strip()) != "healthy":
        if monotonic() > end:
            raise Trouble(f"{container} is {state} after {HEALTHY_S} s: docker logs {container}")
        sleep(0.2)


def name_of(container: str) -> str:
    return docker("inspect", "--format", "{{.Name}}", container).strip().lstrip("/")


def bring_up(stack: Stack, force: bool, extra: list[str]) -> None:
    """Everything from nothing."""
    engine.need_engine()
    engine.need_plugins()
    stack.provide(force)
    stack.save()
    stack.up(*extra)


def forget() -> None:
    STATE.unlink(missing_ok=True)


def query(stack: Stack, expression: str) -> list[dict]:
    """What Prometheus has of an expression at this moment."""
    url = f"{stack.prometheus()}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())["data"]["result"]
