"""A whole mesh of processes on this machine: `dev.py up --processes | call | kill-owner | roll | logs | trace | status | down | check`.

Owns: which processes there are, on which ports, and their ends. What they do is the mesh's business. `demo.py` shows a call that
outlives its owner.
"""

import argparse
import base64
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "harness"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import demo
from daemon import Daemon, Trouble, wait_for
from mesh import SAMPLES, toml

ROOT = Path(__file__).resolve().parents[3]
# Another one for a second mesh, on free ports, that others start and end.
HOME = Path(os.environ.get("TRUNKLINE_DEV_HOME", ROOT / ".trunkline" / "dev"))
STATE = HOME / "state.json"
LAST = HOME / "last-trace"
# There while the mesh of compose.yaml is up.
CONTAINERS = HOME / "compose.json"
BINARIES = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "debug"
PREFIX = "/trunkline"

# Name of each process and the port it is found at; etcd has one more for its own kind (PEERS).
PORTS = {
    "etcd-1": 2379,
    "etcd-2": 2381,
    "etcd-3": 2383,
    "redis-1": 6379,
    "redis-2": 6380,
    "trace-page": 16686,
    "tool-registry-1": 7201,
    "tool-registry-2": 7211,
    "resource-registry-1": 7202,
    "resource-registry-2": 7212,
    "prompt-registry-1": 7203,
    "prompt-registry-2": 7213,
    "ledger-registry-1": 7204,
    "ledger-registry-2": 7214,
    "session-1": 7101,
    "session-2": 7102,
    "session-3": 7103,
    "gateway-1": 8081,
    "gateway-2": 8082,
    "proxy": 8080,
}
PEERS = {"etcd-1": 2380, "etcd-2": 2382, "etcd-3": 2384}


class Mesh:
    """The processes of one mesh and where they are."""

    slow = "slow"

    def __init__(self, state: dict):
        self.ports: dict[str, int] = state.get("ports", {})
        self.peers: dict[str, int] = state.get("peers", {})
        self.otlp: str = state.get("otlp", "")
        self.daemons = {name: Daemon(**known) for name, known in state.get("daemons", {}).items()}

    @classmethod
    def load(cls) -> "Mesh":
        if not STATE.is_file():
            raise Trouble("no mesh is up: scripts/dev up --processes")
        return cls(json.loads(STATE.read_text(encoding="utf-8")))

    def save(self) -> None:
        daemons = {name: daemon.known() for name, daemon in self.daemons.items()}
        state = {"ports": self.ports, "peers": self.peers, "otlp": self.otlp, "daemons": daemons}
        STATE.write_text(json.dumps(state, indent=1), encoding="utf-8")

    def port(self) -> int:
        return self.ports["proxy"]

    def kill(self, name: str) -> str:
        self.daemons[name].send(signal.SIGKILL)
        return f"kill -9 {name} (pid {self.daemons[name].pid})"

    def url(self) -> str:
        return f"http://127.0.0.1:{self.port()}/mcp"

    def page(self) -> str:
        return f"http://127.0.0.1:{self.ports['trace-page']}"

    def etcd(self, *args: str) -> str:
        """Asks etcd, whichever member answers."""
        ends = ",".join(f"http://127.0.0.1:{self.ports[name]}" for name in PEERS)
        command = ["etcdctl", "--endpoints", ends, "--dial-timeout", "1s", "--command-timeout", "3s", *args]
        done = subprocess.run(command, env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Trouble(f"etcd does not answer: {done.stderr.strip()}")
        return done.stdout

    def owner(self, slot: int) -> str:
        """Which session node owns a slot."""
        said = self.etcd("get", "--print-value-only", f"{PREFIX}/slots/{slot}").strip()
        if not said:
            raise Trouble(f"nobody owns slot {slot}")
        return json.loads(said)["node"]

    def start(self, name: str, argv: list[str]) -> Daemon:
        daemon = Daemon.start(name, argv, HOME / "logs" / f"{name}.log")
        self.daemons[name] = daemon
        self.save()
        return daemon

    def start_role(self, name: str) -> None:
        """Starts a process of ours by the settings that were written for it, and waits until it listens."""
        role = name.rsplit("-", 1)[0]
        config = HOME / f"{name}.toml"
        if role == "ledger-registry":
            argv = [str(BINARIES / role), "--ledger", str(HOME / "ledger.jsonl"), "--name", name]
            argv += ["--listen", f"127.0.0.1:{self.ports[name]}", "--telemetry", self.otlp]
        else:
            argv = [str(BINARIES / "trunkline"), role, "--config", str(config)]
        self.start(name, argv).says("listening ")


def free(count: int) -> list[int]:
    """Ports that nobody listens on."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    return ports


def check_ports(ports: dict[str, int]) -> None:
    taken = []
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                taken.append(f"{port} ({name})")
    if taken:
        raise Trouble(f"somebody else listens on {', '.join(taken)}: end that, or use scripts/dev up --processes --free-ports")


def check_programs() -> None:
    for program in ("etcd", "etcdctl", "redis-server", "redis-cli"):
        if not shutil.which(program):
            raise Trouble(f"the program {program} is missing: scripts/stores installs it")
    for program in ("trunkline", "ledger-registry", "proxy"):
        if not (BINARIES / program).is_file():
            raise Trouble(f"the program {program} is not built: cargo build -p trunkline -p ledger-registry -p tests --bins")


def up(args: argparse.Namespace) -> None:
    if not args.processes:
        raise Trouble("say scripts/dev up --processes; everything in one process is scripts/up")
    if STATE.is_file():
        running = [name for name, daemon in Mesh.load().daemons.items() if daemon.runs()]
        if running:
            raise Trouble(f"a mesh is up already ({len(running)} processes): scripts/dev down ends it")
    if CONTAINERS.is_file():
        raise Trouble("a mesh is up in containers: scripts/dev down ends it")
    check_programs()
    ports, peers = dict(PORTS), dict(PEERS)
    if args.free_ports:
        taken = free(len(PORTS) + len(PEERS))
        ports = {name: taken.pop() for name in PORTS}
        peers = {name: taken.pop() for name in PEERS}
    check_ports({**ports, **{f"{name} among its own": port for name, port in peers.items()}})
    shutil.rmtree(HOME, ignore_errors=True)
    (HOME / "logs").mkdir(parents=True)
    mesh = Mesh({"ports": ports, "peers": peers})
    try:
        bring_up(mesh)
    except BaseException:
        take_down(mesh)
        raise
    print(f"clients:     {mesh.url()}")
    print(f"traces:      {mesh.page()}")
    print(f"logs:        {os.path.relpath(HOME / 'logs', ROOT)}")
    print("try:         scripts/dev call, scripts/dev kill-owner, scripts/dev down")


def bring_up(mesh: Mesh) -> None:
    stores(mesh)
    trace_page(mesh)
    settings(mesh)
    for role in ("tool-registry", "resource-registry", "prompt-registry", "ledger-registry", "session", "gateway"):
        for name in [name for name in mesh.ports if name.startswith(f"{role}-")]:
            mesh.start_role(name)
    owned = lambda: len(mesh.etcd("get", "--prefix", "--keys-only", f"{PREFIX}/slots/").split()) == 4096
    wait_for("every slot to have an owner", owned, 60)
    gateways = [f"127.0.0.1:{mesh.ports[name]}" for name in ("gateway-1", "gateway-2")]
    proxy = [str(BINARIES / "proxy"), "--listen", f"127.0.0.1:{mesh.ports['proxy']}", *gateways]
    mesh.start("proxy", proxy).says("listening ")


def stores(mesh: Mesh) -> None:
    def peer(name: str) -> str:
        return f"http://127.0.0.1:{mesh.peers[name]}"

    everybody = ",".join(f"{name}={peer(name)}" for name in mesh.peers)
    for name in mesh.peers:
        client = f"http://127.0.0.1:{mesh.ports[name]}"
        argv = ["etcd", "--name", name, "--data-dir", str(HOME / name), "--log-level", "warn"]
        argv += ["--listen-client-urls", client, "--advertise-client-urls", client]
        argv += ["--listen-peer-urls", peer(name), "--initial-advertise-peer-urls", peer(name)]
        mesh.start(name, [*argv, "--initial-cluster", everybody])
    for name in ("redis-1", "redis-2"):
        (HOME / name).mkdir()
        port = str(mesh.ports[name])
        argv = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", str(HOME / name), "--save", ""]
        argv += ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]
        if name == "redis-2":
            argv += ["--replicaof", "127.0.0.1", str(mesh.ports["redis-1"])]
        mesh.start(name, argv)

    def replicated() -> bool:
        info = ["redis-cli", "-p", str(mesh.ports["redis-1"]), "info", "replication"]
        return "state=online" in subprocess.run(info, capture_output=True, text=True, check=False).stdout

    def led() -> bool:
        try:
            mesh.etcd("endpoint", "health")
        except Trouble:
            return False
        return True

    watched = [mesh.daemons[name] for name in ("etcd-1", "etcd-2", "etcd-3", "redis-1", "redis-2")]
    wait_for("etcd to have a leader", led, 30, watched)
    wait_for("the replica of Redis to follow", replicated, 30, watched)


def trace_page(mesh: Mesh) -> None:
    """The page of an `up` that nobody calls. It takes spans on port 4317 if that is free, else on any, and says where."""
    argv = [str(BINARIES / "trunkline"), "up", "--listen", "127.0.0.1:0", "--data", str(HOME / "trace-page")]
    argv += ["--trace-ui", f"127.0.0.1:{mesh.ports['trace-page']}", "--set", "telemetry.log=warn"]
    mesh.otlp = mesh.start("trace-page", argv).says("listening otlp ")


def settings(mesh: Mesh) -> None:
    etcd = [f"http://127.0.0.1:{mesh.ports[name]}" for name in mesh.peers]
    redis = [f"redis://127.0.0.1:{mesh.ports[name]}" for name in ("redis-1", "redis-2")]
    keys = {"current": "dev", "ring": {"dev": base64.b64encode(secrets.token_bytes(32)).decode()}}
    resources, prompts = HOME / "resources", HOME / "prompts"
    for folder, sample in ((resources, "welcome.md"), (prompts, "greet.md")):
        folder.mkdir()
        shutil.copy(SAMPLES / sample, folder)
    ledgers = [{"address": f"127.0.0.1:{mesh.ports[name]}"} for name in ("ledger-registry-1", "ledger-registry-2")]
    own = {
        "tool-registry": {"tools": ["echo", "calculator"]},
        "resource-registry": {"directories": [{"path": str(resources), "uri": "file:///docs/"}]},
        "prompt-registry": {"directory": str(prompts)},
        "session": {"registries": ledgers},
        "gateway": {},
    }
    for name, port in mesh.ports.items():
        role = name.rsplit("-", 1)[0]
        if role not in own:
            continue
        section = {"listen": f"127.0.0.1:{port}", **own[role]}
        if role in ("session", "tool-registry"):
            section["node"] = name
        tables = {
            role: section,
            "cluster": {"etcd": etcd, "prefix": PREFIX},
            "store": {"redis": redis},
            "keys": keys,
            "telemetry": {"endpoint": mesh.otlp, "node": name},
            "runtime": {"threads": 1},
        }
        (HOME / f"{name}.toml").write_text(toml(tables), encoding="utf-8")


def call(args: argparse.Namespace) -> None:
    mesh = Mesh.load()
    trace = secrets.token_hex(16)
    LAST.write_text(trace, encoding="utf-8")
    tool = args.rest or ["calculator", "--arg", "operation=add", "--arg", "a=2", "--arg", "b=40"]
    command = [str(BINARIES / "trunkline"), "call", "--header", f"traceparent: 00-{trace}-{trace[:16]}-01", mesh.url()]
    done = subprocess.run([*command, *tool], check=False)
    print(f"trace: {mesh.page()}/trace/{trace}")
    sys.exit(done.returncode)


def kill_owner(_args: argparse.Namespace) -> None:
    demo.kill_owner(Mesh.load())


def roll(_args: argparse.Namespace) -> None:
    """Restarts every process of ours, one after the other, each once the one before serves."""
    mesh = Mesh.load()
    begun = monotonic()
    for role in ("tool-registry", "resource-registry", "prompt-registry", "session", "gateway"):
        for name in [name for name in mesh.ports if name.startswith(f"{role}-")]:
            since = monotonic()
            mesh.daemons[name].ask_to_end()
            mesh.daemons[name].ended()
            mesh.start_role(name)
            print(f"{name} has drained and serves again after {monotonic() - since:.1f} s", flush=True)
    print(f"every process of the mesh was restarted in {monotonic() - begun:.0f} s; try: scripts/dev call")


def logs(args: argparse.Namespace) -> None:
    """The ends of the logs of some processes, or of all of them."""
    mesh = Mesh.load()
    chosen = [name for name in mesh.daemons if not args.rest or any(name.startswith(asked) for asked in args.rest)]
    for name in chosen:
        lines = Path(mesh.daemons[name].log).read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        print(*[f"{name:20} {line}" for line in lines], sep="\n")
    print(f"all of it: {os.path.relpath(HOME / 'logs', ROOT)}")


def trace(args: argparse.Namespace) -> None:
    asked = args.rest or ([LAST.read_text(encoding="utf-8")] if LAST.is_file() else [])
    if not asked:
        raise Trouble("no call was made yet: scripts/dev call")
    demo.show_trace(Mesh.load(), asked[0])


# What is typed, and what it has to say, the last line where more of it is.
STEPS: list[tuple[list[str], list[str]]] = [
    (["up", "--processes", "--free-ports"], [r"^clients: +http://127\.0\.0\.1:\d+/mcp$", r"^traces: +http://", r"^logs: +\S+", "^try: .*kill-owner"]),
    (["call"], [r"\b42\b", r"^trace: http://127\.0\.0\.1:\d+/trace/[0-9a-f]{32}$"]),
    (["call", "count", "--arg", "op=check"], ["nonce", "^trace: http://"]),
    (["trace"], [r"tools/call count  \[", "^trace: http://"]),
    (["kill-owner"], ["^ .*kill -9 session-", "^pause ", "is started again$", "^trace: http://"]),
    (["roll"], ["^gateway-2 has drained and serves again after", "^every process of the mesh was restarted .*scripts/dev call$"]),
    (["call"], [r"\b42\b"]),
    (["logs", "session", "gateway-2"], ["^session-3 +.*listening|^session-3 +.*INFO", r"^gateway-2 +\S", r"^all of it: \S+"]),
    (["status"], [r"^session-3 +127\.0\.0\.1:\d+ +runs ", r"^what they say: scripts/dev logs .* traces: http://"]),
    (["down"], [r"^20 processes ended; their logs stay: \S+"]),
]


def check(_args: argparse.Namespace) -> None:
    """Does all of it once, on free ports; says in the end how much of it worked."""
    wrong = [refusal for refusal in (taken_port, missing_program) if not refusal()]
    for typed, says in STEPS:
        code, said = run_own(typed, os.environ)
        unsaid = [expected for expected in says if not re.search(expected, said, re.MULTILINE)]
        if code or unsaid:
            wrong.append(typed)
            print(f"FAILED  scripts/dev {' '.join(typed)}: exit code {code}, does not say {unsaid}")
            if typed[0] == "up":
                break
    print(f"{len(STEPS) + 2 - len(wrong)} passed, {len(wrong)} failed")
    sys.exit(1 if wrong else 0)


def run_own(typed: list[str], env: Mapping[str, str]) -> tuple[int, str]:
    """Types `scripts/dev ..`; its exit code and what it says, which is shown as it comes."""
    argv = [sys.executable, "-u", str(Path(__file__).resolve()), *typed]
    lines = []
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        for line in running.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    return running.returncode, "".join(lines)


def refused(why: str, env: Mapping[str, str], *words: str) -> bool:
    """Whether `up` says in one line what is missing, and starts nothing."""
    with tempfile.TemporaryDirectory(prefix="trunkline-dev-") as home:
        code, said = run_own(["up", "--processes"], {**env, "TRUNKLINE_DEV_HOME": home})
        good = code == 1 and said.count("\n") == 1 and all(word in said for word in ("scripts/dev: ", *words)) and not os.listdir(home)
    if not good:
        print(f"FAILED  {why}: exit code {code}, in place of {words}: {said}")
    return good


def taken_port() -> bool:
    """Somebody has a port that it needs; who has it already is as good as we."""
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taker.bind(("127.0.0.1", PORTS["proxy"]))
            taker.listen()
        except OSError:
            pass
        return refused("a port is taken", os.environ, "somebody else listens on ", f"{PORTS['proxy']} (proxy)", "--free-ports")


def missing_program() -> bool:
    """Nothing but what Python needs is found."""
    with tempfile.TemporaryDirectory(prefix="trunkline-path-") as empty:
        return refused("a program is missing", {**os.environ, "PATH": empty}, "the program etcd is missing", "scripts/stores installs it")


def status(_args: argparse.Namespace) -> None:
    mesh = Mesh.load()
    for name, daemon in mesh.daemons.items():
        print(f"{name:20} 127.0.0.1:{mesh.ports.get(name, 0):<6} {'runs' if daemon.runs() else 'has ended'}  pid {daemon.pid}")
    print(f"what they say: scripts/dev logs [NAME]   clients: {mesh.url()}   traces: {mesh.page()}")


def down(_args: argparse.Namespace) -> None:
    mesh = Mesh.load()
    count = take_down(mesh)
    STATE.unlink()
    # What the stores wrote is of no use to another mesh.
    for name in ("etcd-1", "etcd-2", "etcd-3", "redis-1", "redis-2"):
        shutil.rmtree(HOME / name, ignore_errors=True)
    print(f"{count} processes ended; their logs stay: {os.path.relpath(HOME / 'logs', ROOT)}")


def take_down(mesh: Mesh) -> int:
    """Ends everything, the edge first; how many there were."""
    groups = ("proxy", "gateway", "session", "tool", "resource", "prompt", "ledger", "trace-page", "redis", "etcd")
    count = 0
    for group in groups:
        members = [daemon for name, daemon in mesh.daemons.items() if name.startswith(group)]
        for daemon in members:
            count += daemon.ask_to_end()
        for daemon in members:
            daemon.ended()
    return count


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/dev", description=__doc__.split("\n", maxsplit=1)[0])
    commands = parser.add_subparsers(required=True)
    starting = commands.add_parser("up", help="starts it")
    starting.add_argument("--processes", action="store_true", help="as processes of this machine")
    starting.add_argument("--free-ports", action="store_true", help="on whatever ports are free, for a second mesh")
    starting.set_defaults(run=up)
    calling = commands.add_parser("call", help="calls a tool: call [TOOL [--arg NAME=VALUE ..]]")
    calling.add_argument("rest", nargs=argparse.REMAINDER)
    calling.set_defaults(run=call)
    for name, run in (("logs", logs), ("trace", trace)):
        added = commands.add_parser(name)
        added.add_argument("rest", nargs="*")
        added.set_defaults(run=run)
    for name, run in (("roll", roll), ("kill-owner", kill_owner), ("status", status), ("down", down), ("check", check)):
        commands.add_parser(name).set_defaults(run=run)
    args = parser.parse_args()
    try:
        args.run(args)
    except Trouble as trouble:
        print(f"scripts/dev: {trouble}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
