"""Judges the registry in this folder: by the checker, and by what clients get from it through a mesh; see scripts/stranger."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))

import tools  # noqa: E402
from mesh import Mesh, Process, exit_on_signals  # noqa: E402
from wire import Answer, Session, modern  # noqa: E402

MODES = ("legacy", "auto", "2026-07-28")
CHECK_S, CLIENT_S, CHANGE_S = 300, 120, 30
SUMMARY = re.compile(r"^(\d+) passed, (\d+) failed(, \d+ skipped)?$", re.MULTILINE)
LISTS = {"tools": "name", "resources": "uri", "prompts": "name"}
# A mesh of several nodes has changed once so many answers in a row say so.
IN_A_ROW = 6


class Tally:
    """Counts and prints the checks."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, name: str, body) -> bool:
        try:
            body()
        except Exception:
            self.failed += 1
            print(f"not ok {name}\n  " + "\n  ".join(traceback.format_exc().splitlines()[-12:]), flush=True)
            return False
        self.passed += 1
        print(f"ok {name}", flush=True)
        return True

    def run(self, name: str, argv: list[str], seconds: int) -> None:
        """Runs a program that counts its own checks; only the sum of all stands on a line of its own."""
        try:
            done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=seconds)
            output, ending = done.stdout, f"exit code {done.returncode}"
        except subprocess.TimeoutExpired as late:
            output, ending = (late.stdout or b"").decode(), f"no end in {seconds} s"
        print(SUMMARY.sub(rf"# {name}: \g<0>", output), end="", flush=True)
        summary = SUMMARY.search(output)
        if summary is None or (ending != "exit code 0" and summary[2] == "0"):
            self.failed += 1
            print(f"not ok {name}: {ending}", flush=True)
        if summary is not None:
            self.passed += int(summary[1])
            self.failed += int(summary[2])


class Stranger:
    """The registry as a process that can be stopped and started again at the same address."""

    def __init__(self, mesh: Mesh, python: str):
        self.mesh, self.python, self.address = mesh, python, "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        argv = [self.python, str(HERE / "registry.py"), "--listen", self.address]
        self.process = Process("stranger", argv, self.mesh.work / "stranger.log")
        self.mesh.processes["stranger"] = self.process
        self.address = self.process.address("stranger")


def result(answer: Answer) -> dict:
    assert answer.status == 200, (answer.status, answer.body())
    message = answer.messages()[-1]
    assert "result" in message, message
    return message["result"]


def error(answer: Answer) -> dict:
    message = answer.messages()[-1]
    assert "error" in message, message
    return message["error"]


def said(call: dict) -> str:
    assert not call.get("isError"), call
    return call["content"][0]["text"]


class Use:
    """Both eras of client at one mesh, while the registry comes and goes."""

    def __init__(self, url: str):
        self.url, self.session = url, Session(url).open()
        self.stream = self.session.get()

    def strange(self, kind: str) -> list[str]:
        """What clients see of the registry; it is an error if the two eras do not both get an answer."""
        method, key = f"{kind}/list", LISTS[kind]
        older = [one[key] for one in self.session.result(method)[kind]]
        newer = [one[key] for one in result(modern(self.url, method))[kind]]
        return sorted({name for name in older + newer if name.startswith("stranger")})

    def until(self, present: bool) -> None:
        """Waits until every list has, or has not, the registry's entries; every answer meanwhile must be a list."""
        end, row = time.monotonic() + CHANGE_S, 0
        while row < IN_A_ROW:
            assert time.monotonic() < end, f"the lists did not change in {CHANGE_S} s"
            row = row + 1 if all(bool(self.strange(kind)) == present for kind in LISTS) else 0
            time.sleep(0.05)

    def told(self) -> None:
        """Waits until the session has heard that every list has changed."""
        heard = set()
        while len(heard) < len(LISTS):
            message = self.stream.message()
            assert message is not None, "the stream has ended"
            heard.add(message["method"])
        assert heard == {f"notifications/{kind}/list_changed" for kind in LISTS}, heard

    def reverse(self) -> None:
        call = {"name": "stranger__reverse", "arguments": {"text": "abc"}}
        assert said(self.session.result("tools/call", call)) == "cba"
        assert said(result(modern(self.url, "tools/call", call))) == "cba"

    def echo(self) -> None:
        call = {"name": "echo", "arguments": {"message": "others go on"}}
        assert "others go on" in said(self.session.result("tools/call", call))
        assert "others go on" in said(result(modern(self.url, "tools/call", call)))

    def fails(self, code: int | None = None) -> None:
        """A call that the registry would serve, were it there."""
        call = {"name": "stranger__reverse", "arguments": {"text": "abc"}}
        for failure in (error(self.session.send("tools/call", call)), error(modern(self.url, "tools/call", call))):
            assert code in (None, failure["code"]), failure


def comes_and_goes(tally: Tally, name: str, mesh: Mesh, stranger: Stranger, url: str) -> None:
    """Stops, restarts and kills the registry while the mesh lives."""
    use = Use(url)

    def step(what: str, body) -> None:
        tally.check(f"{name}: {what}", body)

    def drained() -> None:
        code = stranger.process.stop()
        assert code == 0, f"exit code {code}"

    step("all of it is listed", lambda: use.until(True))
    step("it is called", use.reverse)
    step("asked to end it ends", drained)
    step("a call fails while it is gone", use.fails)
    step("its entries go, and every list is served meanwhile", lambda: use.until(False))
    step("the session is told that all lists have changed", use.told)
    step("other registries are served", use.echo)
    step("its tools are unknown", lambda: use.fails(-32602))
    step("it starts again", stranger.start)
    step("its entries come back", lambda: use.until(True))
    step("the session is told again", use.told)
    step("it is called again", use.reverse)

    def killed() -> None:
        failures = []
        call = {"name": "stranger__hold", "arguments": {}}
        senders = [
            lambda: failures.append(error(use.session.send("tools/call", call))),
            lambda: failures.append(error(modern(url, "tools/call", call))),
        ]
        threads = [threading.Thread(target=send, daemon=True) for send in senders]
        for thread in threads:
            thread.start()
        time.sleep(0.5)  # there is no sign from outside that both calls run; killed earlier they fail all the same
        stranger.process.kill()
        for thread in threads:
            thread.join(CHANGE_S)
        assert len(failures) == len(senders), failures

    step("killed in the middle of two calls, both fail", killed)
    step("it starts once more", stranger.start)
    step("its entries are there", lambda: use.until(True))
    step("it is called once more", use.reverse)

    def healthy() -> None:
        for process in mesh.processes.values():
            assert process.running(), process.report("has ended")
            complaints = [line for line in process.log.read_text(encoding="utf-8").splitlines() if "ERROR" in line]
            assert not complaints, complaints

    step("no process of the mesh has ended or logged an error", healthy)
    use.stream.close()


def main(binaries: Path) -> int:
    exit_on_signals()
    registry = subprocess.run([HERE / "install"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    client = str(tools.python(HERE.parent / "clients"))
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="trunkline-stranger-") as work:
        with Mesh(binaries, Path(work, "check")) as mesh:
            stranger = Stranger(mesh, registry)
            argv = [str(binaries / "registry-check"), stranger.address, "--drain", str(stranger.process.pid)]
            tally.run("registry-check", argv, CHECK_S)
            tally.check("the registry ends after draining", lambda: ends(stranger.process))
        for name in ("one process", "separate processes"):
            print(f"# {name}", flush=True)
            with Mesh(binaries, Path(work, name.replace(" ", "-"))) as mesh:
                stranger = Stranger(mesh, registry)
                url = mesh.up([stranger.address]) if name == "one process" else mesh.split([stranger.address]).url
                for mode in MODES:
                    argv = [client, str(HERE / "client.py"), url, mode]
                    tally.run(f"client.py {mode}", argv, CLIENT_S)
                comes_and_goes(tally, name, mesh, stranger, url)
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 0 if tally.failed == 0 else 1


def ends(process: Process) -> None:
    end = time.monotonic() + CHANGE_S
    while process.running():
        assert time.monotonic() < end, process.report("does not end")
        time.sleep(0.05)
    code = process.stop()
    assert code == 0, process.report(f"ended with {code}")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
