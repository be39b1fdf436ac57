"""The steps of docs/growing.md that take containers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose" / "compose.yaml"
LABELS = ("compose", "copy", "contained", "uncontained")
# What a step may take: images are there already.
UP_S = 240


def read(guide) -> None:
    """Compares what is told with compose.yaml, and lets a shell read it."""
    services = set(re.findall(r"^  ([\w-]+):$", COMPOSE.read_text(encoding="utf-8").split("\nservices:\n")[1], re.MULTILINE))
    added = guide.readme.block("yaml", "carried").text
    named = set(re.findall(r"^  ([\w-]+):$", added.split("services:")[1], re.MULTILINE))
    for label in LABELS:
        text = guide.readme.block("sh", label).text
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{label}: {done.stderr}"
        for line in text.splitlines():
            words = re.split(r"\s+", line.split("docker compose ", 1)[-1]) if "docker compose " in line else []
            named |= {word for word in words if word in ("nginx", "gateway", "session") or word.startswith("redis-p") or word.startswith("redis-r")}
    assert named <= services, f"compose.yaml has no {named - services}"


def run(guide, stop: Callable[[], None]) -> None:
    """Does it, with images that are made of this machine's programs where they cannot be pulled."""
    sys.path.insert(0, str(ROOT / "compose" / "tools"))
    import docker as engine
    from stack import Stack

    own = None
    if not engine.engine_answers():
        engine.install_engine()
        own = engine.OwnEngine()
        own.start()
    engine.need_plugins()
    mesh = Stack.new([], COMPOSE_PROJECT_NAME=f"trunkline-guide-{os.getpid()}", TRUNKLINE_VERSION="guide")
    os.environ |= {name: value for name, value in mesh.settings.items() if name.startswith("COMPOSE_PROJECT") or name == "TRUNKLINE_VERSION"}

    def prepare() -> None:
        mesh.provide()
        (guide.cwd / "compose").symlink_to(ROOT / "compose")
        guide.write("team/compose.yaml", "carried", '{ name = "team-a", hash = "sha256:..." }', guide.line.strip().rstrip(","), "yaml")

    def typed(*labels: str) -> str:
        texts = [guide.readme.block("sh", label).text for label in labels]
        done = subprocess.run(
            ["bash", "-c", "\n".join(["set -eu", *texts])], cwd=guide.cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=UP_S
        )
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    def copy() -> None:
        stop()
        said = typed("compose", "copy")
        assert "errors: 0" in said, said

    def contained() -> None:
        typed("compose", "contained")
        guide.session("lives")

    def uncontained() -> None:
        said = typed("compose", "uncontained")
        assert "errors: 0" in said, said

    try:
        guide.step("containers: images", prepare)
        guide.step("containers: what Redis has is copied", copy)
        guide.step("containers: the session goes on in them", contained)
        guide.step("containers: what their Redis has is copied back", uncontained)
    finally:
        subprocess.run(
            ["docker", "compose", "--file", str(COMPOSE), "--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "10"],
            cwd=guide.cwd, capture_output=True, check=False,
        )
        if own:
            own.stop()
