"""Checks what the trace page has of calls, and takes the picture of one; see scripts/picture."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))

import tools  # noqa: E402
from mesh import Mesh, exit_on_signals  # noqa: E402
from traces import Page, Trace  # noqa: E402
from wire import Session, modern  # noqa: E402

LARGEST = 300_000
BROWSER_S = 120
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


def main(binaries: Path, image: Path) -> int:
    exit_on_signals()
    folder = tools.npm("picture", HERE)
    # Node resolves packages from where a script lies.
    shutil.copy(HERE / "take.mjs", folder)
    with tempfile.TemporaryDirectory(prefix="trunkline-picture-") as work, Mesh(binaries, Path(work)) as mesh:
        url, page = start(mesh)
        slow = calls(url, page)
        turn(url, page)
        image.parent.mkdir(parents=True, exist_ok=True)
        browser = shutil.which("chromium")
        argv = [tools.node(), folder / "take.mjs", browser, f"{page.url}/trace/{slow.id}", TEAM, image.resolve()]
        subprocess.run(argv, check=True, timeout=BROWSER_S)
        size = image.stat().st_size
        assert 0 < size < LARGEST, f"{image} has {size} bytes"
        print(f"ok {image}: {size} bytes, {slow}")
    print(f"{len(BUILT_IN) * 2 + 2} passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
