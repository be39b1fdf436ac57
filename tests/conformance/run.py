"""Runs the official conformance suite against a mesh, in one process and as separate ones; see scripts/conformance."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))

import modern as _modern  # noqa: E402, F401
import older as _older  # noqa: E402, F401
import rounds as _rounds  # noqa: E402, F401
import tools  # noqa: E402
import twin  # noqa: E402
from mesh import Mesh, exit_on_signals, shares  # noqa: E402

PACKAGE = Path("node_modules", "@modelcontextprotocol", "conformance")
LEAST_SHARE = 0.4
SUITE_S = 300
# How many scored server scenarios each revision has, so that a suite that runs fewer is noticed.
SCORED = {"2025-11-25": 30, "2026-07-28": 37}
# Scenarios that are run without a score. Those of the tasks extension wait until tasks are built.
NOT_STARTED = re.compile(r"^tasks-")


@dataclass
class Tally:
    """Passed and failed checks of this script."""

    passed: int = 0
    failed: int = 0

    def check(self, good: bool, what: str) -> None:
        self.passed += good
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {what}", flush=True)


@dataclass
class Requirements:
    """What the suite itself says a revision requires of servers."""

    scored: list[str]
    unscored: list[str]

    @classmethod
    def read(cls, path: Path) -> Requirements:
        """Reads the suite's requirement file, of which only this much YAML is needed."""
        scored, unscored, section, scenario = [], [], "", ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := re.fullmatch(r"(\w+):", line):
                section = match[1]
            elif section == "server" and (match := re.fullmatch(r"  - ([\w/.-]+)", line)):
                scored.append(match[1])
            elif section == "not_scored" and (match := re.fullmatch(r"  - scenario: ([\w/.-]+)", line)):
                scenario = match[1]
            elif section == "not_scored" and re.fullmatch(r"    leg: server", line):
                unscored.append(scenario)
        return cls(scored, unscored)


def suite(url: str, revision: str, results: Path) -> int:
    """Runs one set of the suite; returns its exit code."""
    command = [str(tools.node()), str(tools.conformance() / PACKAGE / "dist" / "index.js")]
    command += ["server", "--url", url, "--requirements", revision, "--output-dir", str(results)]
    results.mkdir(parents=True)
    with (results / "output.txt").open("w", encoding="utf-8") as output:
        return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=SUITE_S).returncode


def checks_of(results: Path, scenario: str) -> list[dict]:
    """Returns the checks of a scenario that was run exactly once, else none."""
    runs = [path for path in results.glob("server-*/checks.json") if _scenario(path.parent.name) == scenario]
    return json.loads(runs[0].read_text(encoding="utf-8")) if len(runs) == 1 else []


def _scenario(folder: str) -> str:
    return re.sub(r"-\d{4}-\d{2}-\d{2}T[\d-]+Z$", "", folder.removeprefix("server-"))


def show(problems: list[dict]) -> None:
    for check in problems:
        print(f"  {check['status']} {check['id']}: {check.get('errorMessage', '')}")


def judge(results: Path, revision: str, topology: str, exit_code: int, tally: Tally) -> None:
    """Prints and counts what a run of the suite found."""
    required = Requirements.read(tools.conformance() / PACKAGE / "requirements" / f"{revision}.yaml")
    passed = warned = total = 0
    for scenario in required.scored:
        checks = checks_of(results, scenario)
        failures = [check for check in checks if check["status"] == "FAILURE"]
        warnings = [check for check in checks if check["status"] == "WARNING"]
        good = not failures and any(check["status"] == "SUCCESS" for check in checks)
        total += sum(check["status"] == "SUCCESS" for check in checks)
        passed += good
        warned += len(warnings)
        tally.check(good, f"{topology} {revision} {scenario}")
        show(failures + warnings)
    for scenario in required.unscored:
        checks = checks_of(results, scenario)
        problems = [check for check in checks if check["status"] in ("FAILURE", "WARNING")]
        good = any(check["status"] == "SUCCESS" for check in checks) and not problems
        if NOT_STARTED.match(scenario):
            print(f"{'passes' if good else 'not started'}: {topology} {revision} {scenario} (unscored, not counted)")
            continue
        tally.check(good, f"{topology} {revision} {scenario} (unscored)")
        show(problems)
    scored = f"{topology} {revision}: {passed}/{len(required.scored)} scored scenarios"
    tally.check(passed == len(required.scored) == SCORED[revision], f"{scored}, {total} checks")
    tally.check(warned == 0, f"{topology} {revision}: {warned} warnings in scored scenarios")
    tally.check(exit_code == 0, f"{topology} {revision}: the suite's exit code is {exit_code}")


def main(binaries: Path) -> int:
    exit_on_signals()
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="trunkline-conformance-") as folder:
        work = Path(folder)

        def run(topology: str, url: str) -> None:
            for revision in SCORED:
                results = work / "results" / topology / revision
                judge(results, revision, topology, suite(url, revision, results), tally)
            for name, failure in twin.run(url):
                tally.check(failure is None, f"{topology} {name}")
                if failure is not None:
                    print("  " + failure.replace("\n", "\n  "))

        def stop(topology: str, mesh: Mesh) -> None:
            bad = {name: code for name, code in mesh.stop().items() if code != 0}
            tally.check(not bad, f"{topology}: every process drained and ended well {bad or ''}".rstrip())

        with Mesh(binaries, work / "up") as mesh:
            run("up", mesh.up([mesh.fixtures()]))
            stop("up", mesh)
        with Mesh(binaries, work / "split") as mesh:
            split = mesh.split([mesh.fixtures()])
            run("split", split.url)
            for address, share in shares(split.proxy).items():
                tally.check(share >= LEAST_SHARE, f"gateway {address} got {share:.1%} of the requests")
            stop("split", mesh)
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 0 if tally.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
