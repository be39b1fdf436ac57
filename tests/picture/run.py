"""Checks what the trace page and the dashboard have of a mesh, and takes pictures of them; see scripts/picture."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import time

HERE = Path(__file__).resolve().parent
for folder in ("harness", "faults/dev"):
    sys.path.insert(0, str(HERE.parent / folder))

import tools  # noqa: E402
from mesh import Mesh, exit_on_signals  # noqa: E402
from traces import Page, Trace  # noqa: E402
from wire import Session, modern  # noqa: E402

LARGEST = 300_000
BROWSER_S = 120
# How long clients keep the mesh busy before an owner is killed, how much of that the dashboard shows, and how long they go on: rates are
# those of a minute.
LONG, QUICK = (65, 15, 45), (6, 6, 6)
SLOW = {"name": "team__weather", "arguments": {"location": "Reykjavik"}, "_meta": {"progressToken": "p"}}
# What a registry in a process of its own is shown as, and what the built-in ones are.
TEAM = "trunkline-weather"
HOPS = ["trunkline-gateway", "trunkline-session"]
BUILT_IN = {
    "tools/call": ({"name": "echo", "arguments": {"message": "hello"}}, "trunkline-tool-registry"),
    "resources/read": ({"uri": "file:///docs/welcome.md"}, "trunkline-resource-registry"),
    "prompts/get": ({"name": "greet", "arguments": {"who": "Ada"}}, "trunkline-prompt-registry"),
}


def start(mesh: Mesh) -> tuple[str, Page]:
    """A mesh that shows its traces, with a registry in another process; returns its URL and the page."""
    up = ["up", "--listen", "127.0.0.1:0", "--data"]
    collector = mesh.start("collector", "trunkline", *up, str(mesh.work / "page"), "--trace-ui", "127.0.0.1:0")
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.address("otlp")
    weather = mesh.start("weather", "examples/weather", "--listen", "127.0.0.1:0").address("weather")
    settings = ["--set", f"telemetry.endpoint={collector.address('otlp')}", "--registry", f"{weather}=team"]
    process = mesh.start("up", "trunkline", *up, str(mesh.work / "data"), *settings)
    return process.address("gateway"), Page(collector.address("trace-ui"))


def connected(trace: Trace, hops: list[str]) -> None:
    """One trace id, one root, and a span of the last hop behind spans of all the others."""
    assert {span.trace for span in trace.spans} == {trace.id}, trace
    assert [root.service for root in trace.roots()] == hops[:1], trace
    inner = trace.of(hops[-1])[0]
    order = list(dict.fromkeys(hop.service for hop in trace.path(inner)))
    assert order == hops, f"{order} instead of {hops} in {trace}"


def calls(url: str, page: Page) -> Trace:
    """Makes calls of both eras and checks their traces; returns that of the slow one."""
    session, seen = Session(url).open(), set()
    for method, (params, service) in BUILT_IN.items():
        for era, answer in (("older", session.send(method, params)), ("modern", modern(url, method, params))):
            assert "result" in answer.messages()[-1], (method, era)

            def fits(trace: Trace, wanted=service) -> bool:
                return bool(trace.of(wanted)) and trace.id not in seen

            trace = page.find(page.listed, fits, f"{method} ({era})")
            connected(trace, [*HOPS, service])
            seen.add(trace.id)
            print(f"ok {method} ({era}): {' > '.join(dict.fromkeys(hop.service for hop in trace.path(trace.of(service)[0])))}")
    messages = modern(url, "tools/call", SLOW).messages()
    assert len(messages) > 1 and "result" in messages[-1], messages
    trace = page.find(page.listed, lambda trace: bool(trace.of(TEAM)), "a call of another process")
    connected(trace, [*HOPS, TEAM])
    return trace


def turn(url: str, page: Page) -> None:
    """An agent's turn: calls that carry the agent's own trace are all in that trace."""
    trace, parent = os.urandom(16).hex(), os.urandom(8).hex()
    meta = {"traceparent": f"00-{trace}-{parent}-01"}
    for method, (params, _) in BUILT_IN.items():
        assert "result" in modern(url, method, {**params, "_meta": meta}).messages()[-1], method
    wanted = {*HOPS, *(service for _, service in BUILT_IN.values())}
    found = page.find(lambda: page.trace(trace), lambda trace: wanted == set(trace.services()), "the agent's turn")
    assert {root.parent for root in found.roots()} == {parent}, found
    print(f"ok an agent's turn is one trace of {len(wanted)} services")


class Camera:
    """Takes pictures into a folder, each no larger than it should be."""

    def __init__(self):
        self.folder = tools.npm("picture", HERE)
        self.taken = 0
        # Node resolves packages from where a script lies.
        shutil.copy(HERE / "take.mjs", self.folder)

    def take(self, image: Path, kind: str, *rest) -> None:
        image.parent.mkdir(parents=True, exist_ok=True)
        argv = [tools.node(), self.folder / "take.mjs", shutil.which("chromium"), image.resolve(), kind, *rest]
        subprocess.run(argv, check=True, timeout=BROWSER_S)
        size = image.stat().st_size
        assert 0 < size < LARGEST, f"{image} has {size} bytes"
        self.taken += 1
        print(f"ok {image}: {size} bytes", flush=True)


def first(binaries: Path, work: Path, camera: Camera, image: Path) -> None:
    """One process: calls of both eras, and the picture of one."""
    with Mesh(binaries, work / "up") as mesh:
        url, page = start(mesh)
        slow = calls(url, page)
        turn(url, page)
        camera.take(image, "call", f"{page.url}/trace/{slow.id}", TEAM)
        print(slow)


def second(binaries: Path, work: Path, camera: Camera, images: Path, times: tuple[int, int, int]) -> None:
    """Many processes under load: a call that outlives the owner of its session, and the dashboard meanwhile."""
    os.environ["TRUNKLINE_DEV_HOME"] = str(work / "dev")
    import board
    import dev
    import failover
    from load import Load

    dev.BINARIES = binaries.resolve()
    dev.up(argparse.Namespace(processes=True, free_ports=True))
    watched = board.Watched.load()
    try:
        with Mesh(binaries, work / "watching") as watching:
            prometheus = board.Prometheus(watching, watched)
            before, shown_before, after = times
            with Load(watched.url()) as load:
                load.wait(before)
                begun = time() - shown_before
                trace, owners = failover.crossed(watched)
                print(f"ok one trace, {owners[0]} and then {owners[1]}: {trace}")
                camera.take(images / "failover.png", "crossing", f"{watched.page()}/trace/{trace.id}", failover.SESSION)
                load.wait(after)
                ended = time()
            panels = board.filled(prometheus, begun, ended)
            about = f"the queries of {board.DASHBOARD.relative_to(board.ROOT)}, answered by Prometheus, drawn by scripts/picture"
            shown = {"title": "Trunkline", "about": about, "begun": begun, "ended": ended, "step": board.READ_EVERY_S, "events": watched.events, "panels": panels}
            data = work / "board.json"
            data.write_text(json.dumps(shown), encoding="utf-8")
            camera.take(images / "dashboard.png", "dashboard", HERE / "dashboard.html", data)
            print(f"ok {sum(panel['kind'] != 'row' for panel in panels)} panels, after {next(load.sent)} calls")
    finally:
        dev.take_down(watched)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/picture", description=__doc__)
    parser.add_argument("--binaries", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="kill the owner after seconds of load, not after a minute; what scripts/test does")
    parser.add_argument("file", type=Path, nargs="?", default=HERE / "trace.png", help="the picture of a call; the others are put beside it")
    args = parser.parse_args()
    exit_on_signals()
    camera = Camera()
    with tempfile.TemporaryDirectory(prefix="trunkline-picture-") as work:
        first(args.binaries, Path(work), camera, args.file)
        second(args.binaries, Path(work), camera, args.file.parent, QUICK if args.quick else LONG)
    print(f"{len(BUILT_IN) * 2 + 3 + camera.taken} passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
