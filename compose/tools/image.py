"""Builds the images from the sources in a container engine, and shows that they are what the Dockerfile promises: `scripts/image`.

Owns: the stages `plan` and `build`, for which proof.py uses programs of this machine, and images that run by themselves. What is built is
what is committed.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections import deque
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS))
sys.path[1:1] = [str(TOOLS.parents[1] / "tests" / name) for name in ("harness", "newcomer")]

import builder
import debian
import docker as engine
import wire
from docker import ROOT, docker
from proof import LABELS, LARGEST_MB, SUM, begin_engine
from readme import Readme
from say import Trouble, say
from steps import Over, Steps

LOGS = ROOT / "target" / "test-logs" / "image"
PROFILE = os.environ.get("PROFILE", "dist")
VERSION = "image-proof"
HEALTHY_S = 60
ANSWERS_S = 20
# The steps of the stage `build`, by how they begin.
DEPENDENCIES = "RUN cargo build --locked"
PRODUCT = "RUN find . -name"
# Cargo has something to do.
CARGO = re.compile(r"#\d+ [\d.]+ +(Updating|Downloading|Compiling) ")
# What the engine itself puts into every container.
EVERYWHERE = re.compile(r"(dev|proc|sys|\.dockerenv|etc/(hostname|hosts|mtab|resolv\.conf))(/|$)")
# What is built again after a change of a source that is no manifest shows it.
CHANGED = (Path("services/trunkline/src/cli.rs"), "Calls a tool of any MCP server", "Calls one tool of any MCP server")
POWERLESS = ("--cap-drop", "ALL", "--security-opt", "no-new-privileges")
CONFINED = ("--read-only", "--tmpfs", "/tmp", *POWERLESS)
# Where it is told how one process is started in a container.
PAGE = ROOT / "docs" / "containers.md"


@dataclass
class Built:
    """What the engine said of each step: the stage's name and the command, and whether it was taken from before."""

    steps: dict[str, str] = field(default_factory=dict)
    reused: set[str] = field(default_factory=set)
    took: float = 0.0

    def of(self, command: str) -> str:
        """The step of the stage `build` that begins so: reused, run, or not reached."""
        found = [number for number, step in self.steps.items() if re.match(r"\[build +\d+/\d+\] " + re.escape(command), step)]
        if not found:
            return "not reached"
        return "reused" if found[0] in self.reused else "run"

    def hear(self, line: str) -> None:
        """A line of what the engine says while it builds."""
        if step := re.match(r"#(\d+) (\[\w+ +\d+/\d+\] .*)$", line):
            if step[1] not in self.steps:
                self.steps[step[1]] = step[2]
                say(step[2][:110])
        elif cached := re.match(r"#(\d+) CACHED$", line):
            self.reused.add(cached[1])


class Image(Steps):
    """The steps, and how many of them went well."""

    def __init__(self, work: Path):
        self.work, self.sources = work, work / "sources"
        super().__init__()
        self.names = {target: f"{target}:{VERSION}-{os.getpid()}" for target in ("trunkline", "demo")}
        self.revision = debian.run(["git", "rev-parse", "HEAD"], ROOT).strip()
        self.builder = builder.named()
        self.container = self.volume = f"trunkline-image-{os.getpid()}"

    def run(self) -> None:
        if not (self.step("builder", self.provide) and self.step("build", self.whole)):
            return
        for name in ("again", "demo", "said", "nothing else", "up", "ended"):
            self.step(name, getattr(self, name.replace(" ", "_")))
        self.step("another source", self.source)
        for name in ("Cargo.lock", "services/gateway/Cargo.toml"):
            self.step(f"another {name}", lambda: self.manifest(Path(name)))

    # -- building ---------------------------------------------------------------------------------------------------------------

    def provide(self) -> str:
        return f"{self.builder} is {builder.provide(self.builder)}"

    def checkout(self) -> None:
        """What is committed, and nothing of what lies about here."""
        self.sources.mkdir()
        archive = subprocess.run(["git", "archive", self.revision], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", str(self.sources)], input=archive, check=True)

    def whole(self) -> str:
        self.checkout()
        built = self.build("trunkline")
        # An engine that is always there may have them from another time.
        states = {"dependencies": built.of(DEPENDENCIES), "product": built.of(PRODUCT)}
        assert "not reached" not in states.values(), built.steps
        return f"{PROFILE} in {built.took:.0f} s, {', '.join(f'{name} {state}' for name, state in states.items())}"

    def again(self) -> str:
        """Nothing is done twice."""
        built = self.build("trunkline")
        assert built.of(DEPENDENCIES) == built.of(PRODUCT) == "reused", built.steps
        return f"everything is reused, in {built.took:.1f} s"

    def build(self, target: str, to_cargo: bool = False) -> Built:
        """Runs `docker build` on the sources, to the end or until cargo begins."""
        argv = ["docker", "build", "--progress", "plain", "--build-arg", f"PROFILE={PROFILE}", "--build-arg", f"VERSION={VERSION}"]
        argv += ["--build-arg", f"REVISION={self.revision}", "--tag", self.names[target]]
        # Who names no stage gets the last one.
        argv += [] if target == "trunkline" else ["--target", target]
        LOGS.mkdir(parents=True, exist_ok=True)
        built, begun = Built(), monotonic()
        env = {**os.environ, "DOCKER_BUILDKIT": "1"}
        last: deque[str] = deque(maxlen=20)
        with (LOGS / "build.log").open("a", encoding="utf-8") as log:
            print("+", *argv, file=log, flush=True)
            running = subprocess.Popen([*argv, str(self.sources)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for line in running.stdout or ():
                print(line, end="", file=log, flush=True)
                last.append(line)
                built.hear(line)
                if to_cargo and CARGO.match(line):
                    running.terminate()
                    running.wait()
                    return built
            code = running.wait()
        built.took = monotonic() - begun
        if code:
            raise Trouble(f"docker build failed, see {(LOGS / 'build.log').relative_to(ROOT)}: {''.join(last)[-2000:]}")
        return built

    # -- what was built ---------------------------------------------------------------------------------------------------------

    def demo(self) -> str:
        """The other image is made of what is compiled already, and its registry answers."""
        built = self.build("demo")
        assert built.of(PRODUCT) == "reused", built.steps
        options = ("--detach", "--name", f"{self.container}-demo", *CONFINED)
        docker("run", *options, self.names["demo"], "--listen=127.0.0.1:7204", "--ledger=/tmp/ledger.jsonl", "--name=demo")
        end, asked = monotonic() + ANSWERS_S, ["exec", f"{self.container}-demo", "ledger-registry", "--health=127.0.0.1:7204"]
        while subprocess.run(["docker", *asked], capture_output=True, check=False).returncode:
            if monotonic() > end:
                docker(*asked)
            sleep(0.2)
        docker("stop", "--time", "10", f"{self.container}-demo")
        code = docker("inspect", "--format", "{{.State.ExitCode}}", f"{self.container}-demo").strip()
        assert code == "0", f"the registry ended with {code}"
        return f"{self.size('demo'):.0f} MB; its registry is healthy and ends when it is told to"

    def said(self) -> str:
        """It explains itself, and its labels are of this build."""
        shown = docker("run", "--rm", *CONFINED, self.names["trunkline"])
        assert shown == docker("run", "--rm", *CONFINED, self.names["trunkline"], "--help"), shown
        assert CHANGED[1] in shown and "gateway" in shown, shown
        known = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", self.names["trunkline"]))
        labels = {name: known["Labels"].get(f"org.opencontainers.image.{name}", "") for name in LABELS}
        assert all(labels.values()), labels
        assert (labels["version"], labels["revision"]) == (VERSION, self.revision), labels
        assert known["User"] == "65532:65532" and known["Healthcheck"]["Test"][1:] == ["trunkline", "health"], known
        size = self.size("trunkline")
        assert size <= LARGEST_MB["debug" if PROFILE == "dev" else "release"], f"the image has {size:.0f} MB"
        return f"{size:.0f} MB, user {known['User']}, {labels}"

    def size(self, target: str) -> float:
        return int(docker("image", "inspect", "--format", "{{.Size}}", self.names[target])) / 1e6

    def nothing_else(self) -> str:
        """There is one program; nobody becomes root by it, and little belongs to who runs it."""
        docker("create", "--name", f"{self.container}-files", self.names["trunkline"])
        listed = subprocess.run(["docker", "export", f"{self.container}-files"], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=BytesIO(listed)) as tar:
            files = [file for file in tar.getmembers() if not EVERYWHERE.match(file.name)]
        programs = {file.name for file in files if file.isfile() and file.mode & 0o111 and ".so" not in file.name}
        assert programs == {"usr/local/bin/trunkline"}, programs
        assert not [file.name for file in files if file.mode & 0o6000], "there are programs that give rights"
        owned = {file.name.rstrip("/") for file in files if file.uid == 65532 or (file.mode & 0o002 and not file.issym())}
        assert owned == {"certificates", "data", "tmp"}, owned
        return f"{len(files)} entries, one program: {', '.join(sorted(programs))}; to write to: {', '.join(sorted(owned))}"

    def up(self) -> str:
        """One process, with a volume for what it keeps, reached through a port of this machine."""
        built, told = (shlex.split(command) for command in Readme(PAGE).block("sh", "container").commands())
        at = told.index(built[built.index("--tag") + 1])
        # As the page has it, under names and a port of our own, and with fewer rights yet.
        own = {"--name": self.container, "--volume": f"{self.volume}:/data", "--publish": "127.0.0.1:0:8080"}
        given = [own.get(before, word) for before, word in pairwise(told[:at])][1:]
        begun = monotonic()
        docker("run", *given, *POWERLESS, self.names["trunkline"], *told[at + 1 :])
        self.healthy()
        took = monotonic() - begun
        url = self.url()
        modern = wire.modern(url, "tools/call", SUM).json()
        session = wire.Session(url).open()
        older = session.result("tools/call", SUM)
        assert modern["result"]["structuredContent"] == older["structuredContent"] == {"result": 42.0}, (modern, older)
        docker("restart", "--time", "20", self.container)
        self.healthy()
        session.url = self.url()
        assert session.result("tools/call", SUM)["structuredContent"] == {"result": 42.0}
        return f"healthy after {took:.1f} s; a call, a session, and the same session after a restart, through {url}"

    def healthy(self) -> None:
        """By the image's own health check."""
        end = monotonic() + HEALTHY_S
        while (state := docker("inspect", "--format", "{{.State.Health.Status}}", self.container).strip()) != "healthy":
            if monotonic() > end or docker("inspect", "--format", "{{.State.Running}}", self.container).strip() != "true":
                raise Trouble(f"it is {state}: {docker('logs', '--tail', '20', self.container)}")
            sleep(0.2)

    def url(self) -> str:
        address = docker("port", self.container, "8080").split()[0]
        assert address.startswith("127.0.0.1:"), address
        return f"http://{address}/mcp"

    def ended(self) -> str:
        """Told to end, it ends by itself."""
        begun = monotonic()
        docker("stop", "--time", "30", self.container)
        code = docker("inspect", "--format", "{{.State.ExitCode}}", self.container).strip()
        assert code == "0", f"it ended with {code}: {docker('logs', '--tail', '20', self.container)}"
        return f"after {monotonic() - begun:.1f} s"

    # -- what is built again ----------------------------------------------------------------------------------------------------

    def source(self) -> str:
        """Dependencies are not compiled again; what was changed is in the image."""
        name, before, after = CHANGED
        path = self.sources / name
        path.write_text(path.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
        built = self.build("trunkline")
        assert (built.of(DEPENDENCIES), built.of(PRODUCT)) == ("reused", "run"), built.steps
        shown = docker("run", "--rm", self.names["trunkline"])
        assert after in shown and before not in shown, shown
        return f"the dependencies are reused, {PROFILE} of the rest in {built.took:.0f} s, and the image has the change"

    def manifest(self, name: Path) -> str:
        path = self.sources / name
        before = path.read_bytes()
        path.write_bytes(before + b"\n# Another one.\n")
        built = self.build("trunkline", to_cargo=True)
        path.write_bytes(before)
        assert built.of(DEPENDENCIES) == "run", built.steps
        return "the dependencies are compiled again"

    def remove(self) -> None:
        """Containers, volumes and images of this run, where the engine is not our own."""
        for suffix in ("", "-demo", "-files"):
            docker("rm", "--force", f"{self.container}{suffix}", check=False)
        docker("volume", "rm", "--force", self.volume, check=False)
        docker("image", "rm", "--force", *self.names.values(), check=False)
        builder.forget(self.builder)


def ended(number: int, _frame: object) -> None:
    raise Over(f"ended by signal {number}")


def main() -> int:
    own = begin_engine()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ended)
    with tempfile.TemporaryDirectory(prefix="trunkline-image-") as work:
        image = Image(Path(work))
        try:
            engine.need_plugins()
            image.run()
        except (Trouble, Over) as trouble:
            image.over(trouble)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            image.remove()
            if own:
                own.stop()
    return image.sum()


if __name__ == "__main__":
    sys.exit(main())
