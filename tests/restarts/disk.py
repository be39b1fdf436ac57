"""`up --data DIR` on a disk that is full, becomes full, or cannot be written: real ones, small, in a mount namespace of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from time import monotonic, sleep

from mesh import Mesh, Process
from wire import Session, modern

DEADLINE_S = 40
ADD = {"name": "calculator", "arguments": {"operation": "add", "a": 1, "b": 2}}
# How to get there: as root, or as anybody where that is allowed.
WAYS = (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"])


def way(work: Path) -> list[str] | None:
    """What leads into a namespace in which disks may be mounted; nothing if this machine allows none."""
    place = work / "probe"
    place.mkdir()
    for argv in WAYS:
        try:
            probe = [*argv, "mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
            if subprocess.run(probe, capture_output=True, timeout=20).returncode == 0:
                return argv
        except OSError:
            pass
    return None


class Disk:
    """Starts `up` on a disk of its own, which goes with the process."""

    def __init__(self, mesh: Mesh, ways: list[str]):
        self._mesh, self._ways, self._starts = mesh, ways, 0
        self.place = mesh.work / "disk"
        self.place.mkdir()

    def start(self, before: str = "true") -> Process:
        """`before` is done once the disk is there, in it."""
        self._starts += 1
        script = f'mount -t tmpfs -o size=6m none "$0" && cd "$0" && {{ {before}; }} >&2; exec "$@"'
        up = [str(self._mesh.binaries / "trunkline"), "up", "--listen", "127.0.0.1:0", "--data", str(self.place / "data")]
        name = f"disk-{self._starts}"
        process = Process(name, [*self._ways, "sh", "-c", script, str(self.place), *up], self._mesh.work / f"{name}.log")
        self._mesh.processes[name] = process
        return process

    def inside(self, process: Process) -> Path:
        """The disk as that process sees it."""
        return Path(f"/proc/{process.pid}/root{self.place}")


def fill(path: Path) -> None:
    """Takes all the room there is."""
    with path.open("wb", buffering=0) as file:
        piece = 1 << 16
        while piece:
            try:
                while file.write(b"x" * piece) == piece:
                    pass
            except OSError:
                pass
            piece //= 16


def outcome(session: Session) -> str:
    """What comes of a call: `result`, `503`, or `unknown`. Anything else is wrong."""
    answer = session.send("tools/call", ADD)
    if answer.status == 503:
        assert answer.headers["retry-after"], "a 503 says when to come again"
        answer.close()
        return "503"
    assert answer.status == 200, (answer.status, answer.body())
    message = answer.messages()[-1]
    if "result" in message:
        return "result"
    assert message["error"]["data"]["outcome"] == "unknown", message
    return "unknown"


def until(session: Session, wanted: str) -> None:
    """Calls until this comes of it."""
    end, seen = monotonic() + DEADLINE_S, []
    while not seen or seen[-1] != wanted:
        assert monotonic() < end, f"no {wanted} in {DEADLINE_S} s, but {seen[-5:]}"
        seen.append(outcome(session))
        if seen[-1] != "result":
            sleep(0.05)


def becomes_full(disk: Disk) -> None:
    process = disk.start()
    url = process.address("gateway")
    session = Session(url).open()
    until(session, "result")
    filler = disk.inside(process) / "filler"
    fill(filler)
    until(session, "503")
    assert process.running(), process.report("ended when its disk was full")
    alone = modern(url, "tools/call", ADD)
    assert alone.status == 200 and "result" in alone.messages()[-1], "who needs no session notices nothing"
    filler.unlink()
    until(session, "result")
    again = Session(url).open()
    until(again, "result")
    assert process.stop() == 0


def refused(process: Process, *words: str) -> None:
    code = process.ended()
    said = process.log.read_text(encoding="utf-8").strip().splitlines()[-1:]
    assert code == 2 and said and all(word in said[0] for word in words), (code, said)


def is_full(disk: Disk) -> None:
    refused(disk.start("cat /dev/zero > filler"), "data directory", "No space left on device")


def cannot_be_written(disk: Disk) -> None:
    kept = disk.place.parent / "kept"
    first = [str(disk._mesh.binaries / "trunkline"), "up", "--listen", "127.0.0.1:0", "--data", str(kept)]
    process = Process("kept", first, kept.with_suffix(".log"))
    disk._mesh.processes["kept"] = process
    Session(process.address("gateway")).open()
    assert process.stop() == 0
    before = (kept / "sessions.redb").read_bytes()
    sealed = disk.start(f'cp -r "{kept}" data && mount -o remount,ro "{disk.place}"')
    refused(sealed, "sessions.redb cannot be used", "Read-only file system", "--data DIR")
    assert (kept / "sessions.redb").read_bytes() == before


CHECKS = {
    "a disk that becomes full refuses sessions for as long as it is": becomes_full,
    "a full disk is refused": is_full,
    "a disk that cannot be written is refused": cannot_be_written,
}


def checks(mesh: Mesh, tally) -> None:
    """Runs all of them, or says why not."""
    ways = way(mesh.work)
    if ways is None:
        print(f"SKIPPED a disk that is full or cannot be written: none may be mounted here (user {os.getuid()})", flush=True)
        return
    disk = Disk(mesh, ways)
    for name, check in CHECKS.items():
        try:
            check(disk)
        except Exception as error:
            tally.wrong(f"{type(error).__name__}: {error}")
        tally.close(name)
