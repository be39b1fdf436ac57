"""A newcomer's first five minutes, and what README.md and the pages after it tell beyond them; see scripts/first-five-minutes.

Commands, addresses and outputs are those of the pages. They are run in a network of their own, so that the ports it names are
free; where the operating system does not allow one, they have to be free. Two things differ: the build is unoptimised unless
--release is given, and `.trunkline` is elsewhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "harness"))

import mesh  # noqa: E402
import network  # noqa: E402
import tools  # noqa: E402
from mesh import Mesh, Process, exit_on_signals  # noqa: E402
from readme import Readme  # noqa: E402
from traces import Page  # noqa: E402

# Where commands, settings and outputs stand. docs/growing.md and docs/runbooks.md are scripts/guide's.
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("configuration", "containers", "security", "watching"))]
COMMAND_S, APPEARS_S = 60, 30
ADDRESS = re.compile(r"http://127\.0\.0\.1:16686")


class Newcomer:
    """Does the steps, each in terminals of its own; counts and times them."""

    def __init__(self, readme: Readme, terminals: Mesh, build: str, cwd: Path = ROOT):
        self.readme, self.terminals, self.build, self.cwd = readme, terminals, build, cwd
        self.passed = self.failed = 0

    def step(self, name: str, body) -> None:
        begin = time.monotonic()
        try:
            body()
            self.passed += 1
            how = "ok    "
        except Exception:
            self.failed += 1
            how = "FAILED"
            print("\n".join(traceback.format_exc().splitlines()[-12:]), flush=True)
        print(f"{how} {time.monotonic() - begin:6.1f} s  {name}", flush=True)

    def shell(self, command: str) -> list[str]:
        command = command.replace("$PWD/target/release", self.build)
        if not self.build.endswith("release"):
            # What `prepare` has built, and not what cargo builds for one package alone.
            command = command.replace("cargo run --release -p registry --example calculator --", f"{self.build}/examples/calculator")
        return ["bash", "-c", command]

    def open(self, name: str, command: str | list[str], cwd: Path | None = None) -> Process:
        """Types commands, the last of which goes on, into a new terminal."""
        os.chdir(cwd or self.cwd)
        # The process is the program itself, so that it gets the signals.
        *before, last = command if isinstance(command, list) else [command]
        argv = self.shell("; ".join([*before, f"exec {last}"]))
        process = Process(name, argv, self.terminals.work / f"{name}.log")
        self.terminals.processes[name] = process
        return process

    def type(self, command: str, ends: int = 0) -> str:
        """Types a command and returns what it says."""
        done = subprocess.run(
            self.shell(command), cwd=self.cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=COMMAND_S
        )
        assert done.returncode == ends, f"{command}: exit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def until(self, command: str, says: str) -> None:
        """Types a command again and again until it says so: what is new appears within a moment."""
        end = time.monotonic() + APPEARS_S
        while says not in (said := self.type(command)):
            assert time.monotonic() < end, f"{command}: no {says} in {APPEARS_S} s\n{said}"

    def interrupt(self, *names: str) -> None:
        """Presses Ctrl-C."""
        for name in names:
            process = self.terminals.processes[name]
            assert process.running(), process.report("has ended by itself")
            process.signal(signal.SIGINT)
            code = process.ended()
            assert code == 0, process.report(f"ended with exit code {code}")


def five_minutes(new: Newcomer, client: list[str]) -> None:
    readme = new.readme
    # Its first command fetches what is here already; the other starts it without a trace page.
    assert readme.block("sh", "get").commands()[-1] == "./scripts/up"

    def start() -> None:
        up = new.open("up", readme.block("sh", "up").commands()[0])
        up.address("otlp")
        readme.expects("up", "\n".join(up.lines))

    def connect() -> None:
        configuration = readme.block("json", "client").text
        up = new.terminals.processes["up"]
        end = time.monotonic() + APPEARS_S
        while configuration not in "\n".join([*up.lines, ""]):
            assert time.monotonic() < end, up.report("did not print the configuration that README.md shows")
        done = subprocess.run(client, input=configuration, stdout=subprocess.PIPE, text=True, timeout=COMMAND_S)
        assert done.returncode == 0, f"the client ended with {done.returncode}"
        did = json.loads(done.stdout)
        assert {"calculator", "echo"} <= set(did["tools"]), did
        assert did["sum"] == 42 and did["resource"] and "Ada" in did["prompt"], did

    def path() -> None:
        export = readme.block("sh", "ask").commands()[0]
        directory = export.removeprefix('export PATH="').removesuffix(':$PATH"').replace("$PWD/target/release", new.build)
        os.environ["PATH"] = f"{directory}:{os.environ['PATH']}"
        assert Path(shutil.which("trunkline")) == Path(new.build, "trunkline"), shutil.which("trunkline")

    def ask(at: int, *words: str) -> None:
        said = new.type(readme.block("sh", "ask").commands()[at])
        for word in words:
            assert word in said, f"no {word} in {said}"

    def curl() -> None:
        readme.expects("curl", new.type(readme.block("sh", "curl").commands()[0]))

    def registry() -> None:
        new.open("registry", readme.block("sh", "registry").commands()).address("calculator")
        new.until("trunkline list tools", "team__calculator")

    def team() -> None:
        assert "42" in new.type(readme.block("sh", "team").commands()[0])

    def look() -> None:
        page = Page(ADDRESS.search(readme.block("text", "up").text)[0])
        assert b"Jaeger UI" in page.get("/")
        wanted = {"trunkline-gateway", "trunkline-session", "trunkline-calculator"}
        trace = page.find(page.listed, lambda trace: wanted <= set(trace.services()), "the call of one's own tool")
        assert {span.trace for span in trace.spans} == {trace.id}, trace
        assert [root.service for root in trace.roots()] == ["trunkline-gateway"], trace

    new.step("start everything", start)
    new.step("connect a client; call, read, get", connect)
    new.step("find the binary", path)
    new.step("list what there is", lambda: ask(1, "calculator", "file:///docs/welcome.md", "greet"))
    new.step("call a tool", lambda: ask(2, "42"))
    new.step("read a resource", lambda: ask(3, "Trunkline"))
    new.step("get a prompt", lambda: ask(4, "Ada"))
    new.step("ask with curl", curl)
    new.step("run a registry of one's own", registry)
    new.step("call its tool", team)
    new.step("see the call on the trace page", look)
    new.step("stop with Ctrl-C", lambda: new.interrupt("registry", "up"))


def beyond(new: Newcomer) -> None:
    """What comes after the first five minutes."""
    readme = new.readme

    def files() -> None:
        new.open("files", readme.block("sh", "files").commands()[0]).address("gateway")
        new.until("trunkline list resources", "file:///proto/README.md")
        new.interrupt("files")

    def python() -> None:
        new.open("python", readme.block("sh", "python").commands()[0]).address("stranger")
        new.open("with-python", "./scripts/up --registry 127.0.0.1:7302").address("gateway")
        new.until("trunkline list tools", "stranger__reverse")
        new.interrupt("with-python", "python")

    def separate() -> None:
        work = new.terminals.work / "separate"
        for folder, name, text in (
            ("docs", "page.md", "# A page\n"),
            ("prompts", "greet.md", readme.block("markdown", "greet").text),
        ):
            (work / folder).mkdir(parents=True)
            (work / folder / name).write_text(text, encoding="utf-8")
        key = new.type("openssl rand -base64 32").strip()
        settings = readme.block("toml", "mesh").text.replace('k1 = "..."', f'k1 = "{key}"')
        (work / "mesh.toml").write_text(settings, encoding="utf-8")
        names = []
        for number, command in enumerate(readme.block("sh", "mesh").commands()):
            names.append(f"role-{number}")
            role = command.split()[1]
            new.open(names[-1], command, cwd=work).address(role)
        for port in (8080, 8081):
            url = f"http://127.0.0.1:{port}/mcp"
            assert "42" in new.type(f"trunkline call {url} calculator --arg operation=add --arg a=2 --arg b=40")
            assert "A page" in new.type(f"trunkline read {url} file:///docs/page.md")
            assert "Ada" in new.type(f"trunkline get {url} greet --arg who=Ada")
        new.interrupt(*reversed(names))

    def certificates() -> None:
        work = new.terminals.work / "separate"
        new.type(f"cd {work} && {readme.block('sh', 'certificates').commands()[0]}")
        shared, own = (work / "mesh.toml").read_text(encoding="utf-8"), readme.block("toml", "mtls").text
        names = []
        for command in readme.block("sh", "mesh").commands()[:-1]:
            role = command.split()[1]
            pair = "registry" if role.endswith("registry") else role
            (work / f"{role}.toml").write_text(shared + own.replace("/session.", f"/{pair}."), encoding="utf-8")
            names.append(f"certified-{len(names)}")
            new.open(names[-1], command.replace("mesh.toml", f"{role}.toml"), cwd=work).address(role)
        assert "42" in new.type("trunkline call calculator --arg operation=add --arg a=2 --arg b=40")
        new.interrupt(*reversed(names))

    def edge() -> None:
        work = new.terminals.work / "edge"
        work.mkdir()
        key, line, *_ = new.type(readme.block("sh", "key").commands()[0]).splitlines()
        settings = readme.block("toml", "edge").text.replace('{ name = "team-a", hash = "sha256:..." },', line)
        assert line in settings, settings
        (work / "edge.toml").write_text(settings, encoding="utf-8")
        name = "mesh.example.com"
        new.type(
            f"cd {work} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN={name}"
            f" -addext subjectAltName=DNS:{name} -keyout mesh.key -out mesh.pem 2>&1"
        )
        new.open("edge", "trunkline up --config edge.toml", cwd=work).address("gateway")
        curl = readme.block("sh", "curl").commands()[0].replace("http://127.0.0.1:8080", f"https://{name}:8443")
        # A refusal comes before the body is read; on HTTP/2 curl may take that for a failure.
        curl += f" --http1.1 --cacert {work}/mesh.pem --resolve {name}:8443:127.0.0.1 -w '%{{http_code}}'"
        assert new.type(curl).endswith("401")
        assert new.type(f"{curl} -H 'authorization: Bearer {key}x'").endswith("401")
        said = new.type(f"{curl} -H 'authorization: Bearer {key}'")
        assert said.endswith("200") and "42" in said, said
        new.interrupt("edge")

    def watch() -> None:
        new.open("watch", readme.block("sh", "watch").commands()[0]).address("admin")
        health = readme.block("sh", "health").commands()[0]
        # It starts for a moment before it is ready.
        new.until(health, '"healthy"')
        readme.expects("health", new.type(health))
        for path in ("metrics", "livez", "readyz"):
            new.type(f"curl -sSf http://127.0.0.1:9090/{path}")
        new.interrupt("watch")

    def configure() -> None:
        example, check, dump, seeds = readme.block("sh", "config").commands()
        work = new.terminals.work
        new.type(f"cd {work} && {example}")
        assert (ROOT / "trunkline.example.toml").is_file()
        assert "accepted" in new.type(f"cd {work} && {check}")
        assert "[gateway]" in new.type(f"cd {work} && {dump}")
        assert "NODE_ID" in new.type(seeds)

    def unknown() -> None:
        readme.expects("unknown", new.type(readme.block("sh", "unknown").commands()[0], ends=2))

    def contained() -> None:
        """What is said to a container is understood; that there is one is shown by scripts/image."""
        build, run = readme.block("sh", "container").commands()
        image = build.split("--tag ")[1].split()[0]
        new.open("contained", f"trunkline{run.split(image, 1)[1]}").address("gateway")
        readme.expects("curl", new.type(readme.block("sh", "curl").commands()[0]))
        new.interrupt("contained")

    steps = {
        "serve a directory": files,
        "use the registry in Python": python,
        "run separate processes": separate,
        "the same with certificates": certificates,
        "let a caller in by a key": edge,
        "what one container is told": contained,
        "watch it": watch,
        "configure it": configure,
        "mistype a key": unknown,
    }
    for name, body in steps.items():
        new.step(name, body)
        # What a step that failed has left would be in the way of the next.
        new.terminals.stop()


def prepare(target: Path, release: bool) -> list[str]:
    """Builds and installs what README.md takes for granted, or takes minutes for; returns the command of the client."""
    builds = [["--example", "calculator"], *([] if release else [["--bin", "trunkline"]])]
    for build in builds:
        subprocess.run(["cargo", "build", "--quiet", "--locked", "--workspace", *build], cwd=ROOT, check=True)
    subprocess.run([ROOT / "tests" / "stranger" / "install"], check=True, stdout=subprocess.DEVNULL)
    folder = tools.npm("clients", ROOT / "tests" / "clients")
    # Node resolves packages from where a script lies.
    script = shutil.copy(HERE / "client.mjs", folder / "newcomer.mjs")
    return [str(tools.node()), str(script)]


def main(target: Path, release: bool) -> int:
    exit_on_signals()
    begin = time.monotonic()
    client = prepare(target, release)
    print(f"ok     {time.monotonic() - begin:6.1f} s  prepare", flush=True)
    if release:
        mesh.START_S = 1800
    else:
        os.environ["PROFILE"] = "dev"
    if not network.private():
        print("# no network of its own is allowed here: the ports that README.md names have to be free", flush=True)
    readme = Readme(*PAGES)
    build = str(target.resolve() / ("release" if release else "debug"))
    with tempfile.TemporaryDirectory(prefix="trunkline-newcomer-") as work:
        os.environ["TRUNKLINE_DATA"] = str(Path(work, "data"))
        with Mesh(Path(build), Path(work)) as terminals:
            new = Newcomer(readme, terminals, build)
            five_minutes(new, client)
            terminals.stop()
            print(f"       {time.monotonic() - begin:6.1f} s  the first five minutes", flush=True)
            beyond(new)
            new.step("nothing of the pages is left out", lambda: left_out(readme))
    print(f"       {time.monotonic() - begin:6.1f} s  in all")
    print(f"{new.passed} passed, {new.failed} failed")
    return 0 if new.failed == 0 else 1


def left_out(readme: Readme) -> None:
    for command in readme.block("sh", "test").commands():
        assert (ROOT / command).is_file(), f"README.md names {command}"
    for page in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]):
        text = page.read_text(encoding="utf-8")
        for script in set(re.findall(r"`\./(scripts/[\w-]+)", text)):
            assert (ROOT / script).is_file(), f"{page.name} names {script}"
        for linked in set(re.findall(r"\]\((?!https?:)([^)#]+)", text)):
            assert (page.parent / linked).exists(), f"{page.name} leads to {linked}"
    unused = readme.unused()
    assert not unused, "\n  ".join(["the pages have blocks that nothing checks:", *unused])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "--release" in sys.argv[2:]))
