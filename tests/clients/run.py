"""Drives a mesh with the official clients, in one process and as separate processes; see scripts/clients."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))

import tools  # noqa: E402
from mesh import Mesh, exit_on_signals, shares  # noqa: E402

MODES = ("legacy", "auto", "2026-07-28")
# 2024-11-05's transport, which may carry newer revisions.
SSE_MODES = ("2024-11-05", "newest")
LEAST_SHARE = 0.4
DRIVER_S = 300
SUMMARY = re.compile(r"^(\d+) passed, (\d+) failed$", re.MULTILINE)


def drivers() -> list[tuple[list[str], tuple[str, ...]]]:
    """Installs the clients; returns the command of each driver and its modes."""
    folder = tools.npm("clients", HERE)
    # Node resolves packages from where a script lies.
    for file in ("drive.mjs", "sse.mjs", "checks.mjs", "expected.json"):
        shutil.copy(HERE / file, folder)
    return [
        ([str(tools.node()), str(folder / "drive.mjs")], MODES),
        ([str(tools.node()), str(folder / "sse.mjs")], SSE_MODES),
        ([str(tools.python(HERE)), str(HERE / "drive.py")], MODES),
    ]


def drive(commands: list[tuple[list[str], tuple[str, ...]]], url: str) -> tuple[int, int]:
    """Runs every driver in every mode; returns how many checks passed and failed."""
    passed = failed = 0
    for command, modes in commands:
        for mode in modes:
            try:
                done = subprocess.run([*command, url, mode], stdout=subprocess.PIPE, text=True, timeout=DRIVER_S)
                output, ending = done.stdout, f"exit code {done.returncode}"
            except subprocess.TimeoutExpired as late:
                output, ending = (late.stdout or b"").decode(), f"no end in {DRIVER_S} s"
            driver = f"{Path(command[1]).name} {mode}"
            # Only the sum of all drivers stands on a line of its own.
            print(SUMMARY.sub(rf"# {driver}: \g<0>", output), end="", flush=True)
            summary = SUMMARY.search(output)
            if summary is None:
                print(f"not ok {driver}: {ending}")
                failed += 1
            else:
                passed += int(summary[1])
                failed += int(summary[2])
    return passed, failed


def main(binaries: Path) -> int:
    exit_on_signals()
    commands = drivers()
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="trunkline-clients-") as work:
        with Mesh(binaries, Path(work, "up")) as mesh:
            print("# one process", flush=True)
            counts = drive(commands, mesh.up([mesh.fixtures()]))
        passed, failed = passed + counts[0], failed + counts[1]
        with Mesh(binaries, Path(work, "split")) as mesh:
            print("# separate processes: 2 gateways behind a per-request balancer, 2 sessions, 4 registries")
            split = mesh.split([mesh.fixtures()])
            counts = drive(commands, split.url)
            passed, failed = passed + counts[0], failed + counts[1]
            for address, share in shares(split.proxy).items():
                fair = share >= LEAST_SHARE
                passed, failed = passed + fair, failed + (not fair)
                print(f"{'ok' if fair else 'not ok'} gateway {address} got {share:.1%} of the requests")
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
