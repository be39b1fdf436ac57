"""Goes the way of docs/growing.md, command by command as they stand there, and then through docs/runbooks.md; see scripts/guide.

A session that a client began is asked for at every step, and has to go on or to end as the page says. Everything runs in a network of its own,
so that the ports that the pages name are free; where the operating system does not allow one, they have to be free.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent / name) for name in ("newcomer", "harness")]

import containers  # noqa: E402
import figures  # noqa: E402
import network  # noqa: E402
import runbooks  # noqa: E402
from mesh import Mesh, exit_on_signals  # noqa: E402
from readme import Readme  # noqa: E402
from run import Newcomer  # noqa: E402

# How long nobody may own a slot when processes have just been started, or one was killed.
SETTLES_S = 20


class Guide(Newcomer):
    """Does what a page says in a directory of its own."""

    root = ROOT

    def script(self, label: str) -> str:
        """Types a whole block."""
        return self.type(f"set -eu\n{self.readme.block('sh', label).text}")

    def only(self, label: str) -> str:
        """The one command of a block."""
        (command,) = self.readme.block("sh", label).commands()
        return command

    def write(self, name: str, label: str, was: str = "", now: str = "", language: str = "toml") -> None:
        """Adds a block to a file, as its first line says."""
        text = self.readme.block(language, label).text
        assert text.startswith(f"# {name}"), text
        assert was in text, f"{was} is not in {text}"
        with (self.cwd / name).open("a", encoding="utf-8") as file:
            file.write(text.replace(was, now) if was else text)

    def session(self, says: str, port: int = 8080) -> None:
        """Asks in the session that was begun, and compares the answer. What is not ready yet is asked again."""
        command = f"{self.readme.block('sh', 'ask').text}".replace(":8080/", f":{port}/")
        end = time.monotonic() + SETTLES_S
        while (said := self.type(command)).rstrip().endswith("503") and time.monotonic() < end:
            time.sleep(0.2)
        self.readme.expects(says, said)

    def slot(self) -> int:
        """Where that session lives."""
        return int((self.cwd / "session.txt").read_text(encoding="utf-8").split(".")[2], 16)

    def killed(self, name: str) -> None:
        self.terminals.processes[name].kill()


def growing(guide: Guide, keep: Path) -> None:
    page = guide.readme

    def key() -> None:
        os.environ["TRUNKLINE_TOKEN"], line, *_ = guide.type(guide.only("key")).splitlines()
        guide.write("mesh.toml", "auth", '{ name = "team-a", hash = "sha256:..." },', line)
        guide.line = line

    def begin() -> None:
        guide.script("begin")
        guide.session("lives")

    def file() -> None:
        guide.open("up", guide.only("file")).address("gateway")
        begin()
        guide.killed("up")
        guide.open("up", guide.only("file")).address("gateway")
        guide.session("lives")
        keep.write_text((guide.cwd / "session.txt").read_text(encoding="utf-8"), encoding="utf-8")

    def redis() -> None:
        guide.open("redis", guide.only("redis"))
        guide.until("redis-cli ping || true", "PONG")
        guide.write("mesh.toml", "store")
        guide.interrupt("up")
        guide.open("up", guide.only("with-redis")).address("gateway")
        guide.session("ends")
        begin()
        guide.killed("up")
        guide.open("up", guide.only("with-redis")).address("gateway")
        guide.session("lives")

    def separate() -> None:
        guide.open("etcd", guide.only("etcd"))
        guide.until("ETCDCTL_API=3 etcdctl endpoint health 2>&1 || true", "is healthy")
        guide.write("mesh.toml", "mesh")
        guide.script("keys")
        guide.interrupt("up")
        start(guide)
        for port in (8080, 8081):
            guide.session("lives", port)
        said = guide.type("trunkline read file:///docs/welcome.md && trunkline get greet --arg who=Ada")
        assert "Trunkline" in said and "Ada" in said, said

    def owner_dies() -> None:
        said = guide.type(f"ETCDCTL_API=3 etcdctl get --print-value-only /trunkline/slots/{guide.slot()}")
        owner = json.loads(said)["node"]
        guide.killed(owner)
        guide.session("lives")

    guide.step("give callers a key", key)
    guide.step("one process: sessions outlive it", file)
    guide.step("with Redis: those of the file end, new ones outlive the process", redis)
    guide.step("separate processes: the session goes on", separate)
    guide.step("the owner of the session is killed: it goes on", owner_dies)
    assert page is guide.readme


def start(guide: Guide) -> None:
    for command in guide.readme.block("sh", "separate").commands():
        role, given = command.split()[1], command.split()[-1]
        name = given.split("=")[1] if "=" in given else role
        guide.open(name, command).address(role)


def stop(guide: Guide) -> None:
    """Ends the processes of the mesh, the edge first, and leaves the stores."""
    for name, process in reversed(guide.terminals.processes.items()):
        if name not in ("redis", "etcd") and process.running():
            process.signal(signal.SIGINT)
            assert process.ended() == 0, process.report("did not end well")


def back(guide: Guide, keep: Path) -> None:
    def one_process() -> None:
        stop(guide)
        guide.open("up", guide.only("back")).address("gateway")
        guide.session("lives")

    def file() -> None:
        guide.interrupt("up")
        guide.open("up", guide.only("file-again")).address("gateway")
        guide.session("ends")
        (guide.cwd / "session.txt").write_text(keep.read_text(encoding="utf-8"), encoding="utf-8")
        guide.session("lives")
        guide.interrupt("up")

    guide.step("back to one process with Redis: the session goes on", one_process)
    guide.step("back to the file: it ends, and the one of the beginning is there again", file)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/guide", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("part", nargs="?", choices=["all", "growing", "runbooks", "figures"], default="all",
                        help="one of the two pages; `figures` measures what docs/sizing.md says of Redis, etcd and open files, on the mesh of the runbooks")
    parser.add_argument("--containers", action="store_true", help="also the steps with containers, which need a container engine, free ports and "
                        "minutes; without it they are only read, because scripts/compose does them")
    return parser.parse_args()


def main() -> int:
    exit_on_signals()
    args = arguments()
    begun = time.monotonic()
    if args.containers or not network.private():
        print("# on the network of this machine: the ports that the pages name have to be free", flush=True)
    passed = failed = 0
    os.environ["PATH"] = f"{args.binaries.resolve()}:{os.environ['PATH']}"
    parts = {"growing": follow_growing, "runbooks": runbooks.follow, "figures": figures.follow}
    for name in ["growing", "runbooks"] if args.part == "all" else [args.part]:
        readme = Readme(ROOT / "docs" / ("runbooks.md" if name == "figures" else f"{name}.md"))
        with tempfile.TemporaryDirectory(prefix="trunkline-guide-") as work, Mesh(args.binaries, Path(work, "logs")) as terminals:
            Path(work, "here").mkdir()
            guide = Guide(readme, terminals, str(args.binaries), Path(work, "here"))
            parts[name](guide, args.containers)
            if name != "figures":
                guide.step(f"nothing in docs/{name}.md is left out", lambda: left_out(readme))
            os.chdir(ROOT)
        passed, failed = passed + guide.passed, failed + guide.failed
    print(f"       {time.monotonic() - begun:6.1f} s  in all")
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 else 1


def follow_growing(guide: Guide, with_containers: bool) -> None:
    for folder in ("team",):
        (guide.cwd / folder).mkdir()
    keep = guide.cwd / "first-session.txt"
    growing(guide, keep)
    if with_containers:
        containers.run(guide, lambda: stop(guide))
    else:
        guide.step("the steps with containers fit compose.yaml (scripts/compose does them)", lambda: containers.read(guide))
    back(guide, keep)


def left_out(readme: Readme) -> None:
    unused = readme.unused()
    assert not unused, "\n  ".join(["there are blocks that nothing checks:", *unused])


if __name__ == "__main__":
    sys.exit(main())
