"""Kills `trunkline up --data DIR` in the middle of calls, again and again, and judges what clients saw; see scripts/restarts.

What tools really did is in the ledger of a registry that runs beside it, one line for each run, on disk before anybody is told.
Standard library only.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))

import disk  # noqa: E402
from mesh import Mesh, Process, exit_on_signals  # noqa: E402
from wire import Answer, Session, request  # noqa: E402

CLIENTS, CALLS = 40, 5
# Every so many kills, what runs in the registry is lost as well, or a start is killed, too.
WITH_REGISTRY, AT_START = 5, 4
KINDS = ("slow", "append", "calculator", "slow", "count")
SUM = {"operation": "add", "a": 1, "b": 2}
# How long anything may take that is waited for.
DEADLINE_S = 40
BROKEN = (OSError, http.client.HTTPException)


@dataclass
class Op:
    """One call, as its client knows it."""

    name: str
    tool: str
    id: int
    # The client has the head of a stream: the call was taken on.
    acknowledged: bool = False
    last_event: str | None = None
    progress: list[int] = field(default_factory=list)
    ending: dict | None = None
    # It has its ending only because it asked again.
    resumed: bool = False

    @property
    def unknown(self) -> bool:
        return "error" in (self.ending or {})


class Client:
    """One session, and all that was ever asked in it."""

    def __init__(self, number: int, tally: Tally):
        self.number, self.tally = number, tally
        self.session: Session | None = None
        self.ops: list[Op] = []
        self.seen: set[str] = set()

    def open(self, url: str) -> None:
        self.session = Session(url).open()

    def say(self, wrong: str) -> None:
        self.tally.wrong(f"client {self.number}: {wrong}")

    def calls(self, round_number: int, answered) -> None:
        """Makes its calls, up to the one in which the server goes."""
        for number in range(CALLS):
            tool = KINDS[(number + self.number) % len(KINDS)]
            op = Op(f"r{round_number}-c{self.number}-{number}", tool, round_number * 100 + number)
            self.ops.append(op)
            try:
                self.call(op)
            except BROKEN:
                return
            answered()

    def call(self, op: Op) -> None:
        given = {"op": op.name, "session": str(self.number)} if op.tool != "calculator" else SUM
        if op.tool == "append":
            given["value"] = op.id
        if op.tool == "slow":
            given |= {"steps": 4, "pause_ms": 40}
        params = {"name": op.tool, "arguments": given, "_meta": {"progressToken": op.name}}
        answer = self.session.post(request("tools/call", params, op.id))
        if answer.status != 200:
            self.say(f"{op.name} was answered with {answer.status}: {answer.body()[:300]!r}")
        elif answer.type == "application/json":
            self.end(op, answer.json())
        else:
            op.acknowledged = True
            self.read(op, answer)

    def read(self, op: Op, answer: Answer) -> None:
        """Reads a stream up to the ending of its call; breaks as the connection does."""
        while (event := answer.event()) is not None:
            if event.id is not None:
                if event.id in self.seen:
                    self.say(f"{op.name}: event {event.id} came twice")
                self.seen.add(event.id)
                op.last_event = event.id
            if not event.data:
                continue
            message = json.loads(event.data)
            if message.get("method") == "notifications/progress":
                step = message["params"]["progress"]
                if op.progress and step <= op.progress[-1]:
                    self.say(f"{op.name}: progress {step} after {op.progress}")
                op.progress.append(step)
            elif message.get("id") == op.id:
                self.end(op, message)
        if op.ending is None:
            raise http.client.IncompleteRead(b"")

    def end(self, op: Op, message: dict) -> None:
        if op.ending is not None:
            self.say(f"{op.name} has two endings: {op.ending} and {message}")
        op.ending = message

    def come_back(self, url: str) -> None:
        """After the restart: the session answers, and every call that was taken on has its ending."""
        self.session.url = url
        pong = self.session.send("ping")
        if pong.status != 200:
            self.say(f"its session is answered with {pong.status}: {pong.body()[:300]!r}")
        pong.close()
        for op in self.ops:
            if op.ending is not None or not op.acknowledged:
                continue
            if op.last_event is None:
                self.say(f"{op.name} was taken on and cannot be asked for: its stream has no event")
                continue
            answer = self.session.get(op.last_event)
            if answer.status != 200:
                self.say(f"{op.name} cannot be resumed: {answer.status} {answer.body()[:300]!r}")
                continue
            op.resumed = True
            try:
                self.read(op, answer)
            except BROKEN as error:
                self.say(f"{op.name} has no ending after the restart: {error!r}")
            answer.close()


class Tally:
    """Counts the checks, and keeps what was wrong."""

    def __init__(self):
        self.passed = self.failed = 0
        self._wrongs: list[str] = []
        self._lock = threading.Lock()

    def wrong(self, what: str) -> None:
        with self._lock:
            self._wrongs.append(what)

    def close(self, name: str, note: str = "") -> None:
        """Ends a check: it has passed if nothing was wrong since the one before."""
        with self._lock:
            wrongs, self._wrongs = self._wrongs, []
        self.failed += bool(wrongs)
        self.passed += not wrongs
        print(f"{'not ok' if wrongs else 'ok'} {name}{note}", flush=True)
        for what in wrongs[:20]:
            print(f"  {what}", flush=True)


def all_at_once(jobs: list, tally: Tally) -> None:
    """Runs these in threads of their own, to their ends."""

    def guarded(job) -> None:
        try:
            job()
        except Exception:
            tally.wrong(traceback.format_exc(limit=4))

    threads = [threading.Thread(target=guarded, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    end = monotonic() + DEADLINE_S
    for thread in threads:
        thread.join(max(0.0, end - monotonic()))
    if any(thread.is_alive() for thread in threads):
        tally.wrong(f"something is not done after {DEADLINE_S} s")


class Round:
    """Counts answers, so that the kill comes at a chosen one."""

    def __init__(self):
        self._answers, self._changed = 0, threading.Condition()

    def answered(self) -> None:
        with self._changed:
            self._answers += 1
            self._changed.notify_all()

    def until(self, count: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._answers >= count, DEADLINE_S)


def executions(ledger: Path) -> dict[str, list[str]]:
    """What each call did: the names of its runs."""
    runs: dict[str, list[str]] = {}
    for line in ledger.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # Half a line of a registry that was killed: nobody was told of it.
        if "nonce" in entry:
            runs.setdefault(entry["op"], []).append(entry["nonce"])
    return runs


def judge(clients: list[Client], ledger: Path, tally: Tally) -> Counter:
    """Compares what clients were told with what was done."""
    runs, counts = executions(ledger), Counter()
    for client in clients:
        for op in client.ops:
            done = runs.get(op.name, [])
            counts["calls"] += 1
            counts["resumed"] += op.resumed
            if len(done) > 1:
                client.say(f"{op.name} ({op.tool}) ran {len(done)} times")
            if op.ending is None:
                counts["never acknowledged"] += 1
            elif op.unknown:
                counts["outcome unknown"] += 1
                data = op.ending["error"].get("data") or {}
                if data.get("outcome") != "unknown" and done:
                    client.say(f"{op.name} ran and was answered with {op.ending}")
                if done and op.id // 100 % WITH_REGISTRY != 0:
                    client.say(f"{op.name} ran, its registry is still there, and was answered with {op.ending}")
                if not op.resumed:
                    client.say(f"{op.name} failed without a restart: {op.ending}")
            else:
                counts["results"] += 1
                result = op.ending["result"]
                told = (result.get("structuredContent") or {}).get("nonce")
                if result.get("isError") or (op.tool != "calculator" and [told] != done):
                    client.say(f"{op.name} was told {result}, and did {done}")
    return counts


class Server:
    """`up --data DIR`, started again and again on the same directory."""

    def __init__(self, mesh: Mesh, ledger: Path):
        self._mesh, self._ledger, self._starts = mesh, ledger, 0
        self.process: Process | None = None
        self.registry: Process | None = None
        self._registry_at = ""

    def start_registry(self) -> None:
        self.registry = self._mesh.start(
            f"ledger-{self._starts}", "ledger-registry", "--ledger", str(self._ledger), "--listen", "127.0.0.1:0"
        )
        self._registry_at = self.registry.address("ledger-registry")

    def start(self) -> str:
        """Starts it, and waits until it serves; the URL."""
        self._begin()
        return self.process.address("gateway")

    def start_and_kill(self, after_s: float) -> None:
        """Starts it, and kills it wherever it is then."""
        self._begin()
        sleep(after_s)
        self.process.kill()

    def _begin(self) -> None:
        self._starts += 1
        data = str(self._mesh.work / "data")
        where = ["--listen", "127.0.0.1:0", "--data", data, "--registry", self._registry_at]
        self.process = self._mesh.start(f"up-{self._starts}", "trunkline", "up", *where)


def restarts(server: Server, ledger: Path, rounds: int, draw: random.Random, tally: Tally) -> None:
    server.start_registry()
    url = server.start()
    clients = [Client(number, tally) for number in range(CLIENTS)]
    all_at_once([lambda client=client: client.open(url) for client in clients], tally)
    for number in range(1, rounds + 1):
        this, kill_at = Round(), draw.randint(10, CLIENTS * CALLS - 20)
        jobs = [lambda client=client: client.calls(number, this.answered) for client in clients]
        threads = threading.Thread(target=all_at_once, args=(jobs, tally), daemon=True)
        threads.start()
        if not this.until(kill_at):
            tally.wrong(f"{kill_at} answers did not come")
        server.process.kill()
        with_registry = number % WITH_REGISTRY == 0
        if with_registry:
            server.registry.kill()
        threads.join()
        if with_registry:
            server.start_registry()
        if number % AT_START == 0:
            server.start_and_kill(draw.uniform(0.0, 0.3))
        began = monotonic()
        url = server.start()
        all_at_once([lambda client=client: client.come_back(url) for client in clients], tally)
        note = f" at answer {kill_at}{', with the registry' if with_registry else ''}; back after {monotonic() - began:.1f} s"
        judge(clients, ledger, tally)
        tally.close(f"kill {number} of {rounds}", note)
    counts = judge(clients, ledger, tally)
    if counts["resumed"] < rounds or counts["results"] < 10 * rounds:
        tally.wrong("too little happened to prove anything")
    if server.process.stop() != 0:
        tally.wrong("the last one did not end well")
    url = server.start()
    all_at_once([lambda client=client: client.come_back(url) for client in clients], tally)
    judge(clients, ledger, tally)
    server.process.stop()
    tally.close("every session, after all of them and a stop", ": " + ", ".join(f"{n} {what}" for what, n in sorted(counts.items())))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binaries", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--keep", action="store_true", help="keeps the data directory and the logs")
    args = parser.parse_args()
    exit_on_signals()
    print(f"seed {args.seed}", flush=True)
    work = Path(tempfile.mkdtemp(prefix="trunkline-restarts-"))
    tally = Tally()
    try:
        with Mesh(args.binaries.resolve(), work) as mesh:
            ledger = work / "ledger.jsonl"
            restarts(Server(mesh, ledger), ledger, args.rounds, random.Random(args.seed), tally)
            disk.checks(mesh, tally)
    finally:
        if args.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print(f"{tally.passed} passed, {tally.failed} failed", flush=True)
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
