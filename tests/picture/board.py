"""The dashboard's data: a Prometheus that reads a mesh of processes, and the panels with what it answers to their queries."""

from __future__ import annotations

import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "compose" / "tools"))
sys.path.insert(0, str(ROOT / "tests" / "faults" / "dev"))

import debian  # noqa: E402
import dev  # noqa: E402
import docker  # noqa: E402
from mesh import Mesh  # noqa: E402

DASHBOARD = ROOT / "compose" / "grafana" / "dashboards" / "trunkline.json"
ROLES = ("gateway", "session", "tool-registry", "resource-registry", "prompt-registry")
ADMIN = re.compile(r"^listening admin http://(\S+)$", re.MULTILINE)
READ_EVERY_S = 1
START_S = 30


class Watched(dev.Mesh):
    """A mesh of `scripts/dev` whose processes Prometheus finds, however often they start."""

    targets: Path | None = None

    def __init__(self, state: dict):
        super().__init__(state)
        self.events: list[dict] = []
        self.killed: list[str] = []

    def kill(self, name: str) -> str:
        self.killed.append(name)
        self.events.append({"at": time.time(), "text": f"{name} is killed"})
        return super().kill(name)

    def start_role(self, name: str) -> None:
        super().start_role(name)
        self.tell()

    def tell(self) -> None:
        """Writes down where the metrics of each process are."""
        if self.targets is None:
            return
        groups = []
        for name, daemon in self.daemons.items():
            role = name.rsplit("-", 1)[0]
            said = Path(daemon.log).with_suffix(".out").read_text(encoding="utf-8")
            if role in ROLES and (found := ADMIN.search(said)):
                labels = {"job": "trunkline", "instance": name, "service": role}
                groups.append({"targets": [found[1]], "labels": labels})
            elif role == "etcd":
                labels = {"job": "etcd", "instance": name}
                groups.append({"targets": [f"127.0.0.1:{self.ports[name]}"], "labels": labels})
        # In one step: Prometheus looks whenever it changes.
        draft = self.targets.with_suffix(".draft")
        draft.write_text(json.dumps(groups), encoding="utf-8")
        draft.rename(self.targets)


class Prometheus:
    """Debian's, unpacked beside the system, on a port that is free."""

    def __init__(self, owner: Mesh, watched: Watched):
        work = owner.work / "prometheus"
        work.mkdir()
        watched.targets = work / "targets.json"
        watched.tell()
        (port,) = dev.free(1)
        self.url = f"http://127.0.0.1:{port}"
        config = work / "prometheus.yml"
        every = f"global: {{ scrape_interval: {READ_EVERY_S}s, scrape_timeout: {READ_EVERY_S}s }}"
        found = f"scrape_configs: [{{ job_name: mesh, file_sd_configs: [{{ files: [{json.dumps(str(watched.targets))}] }}] }}]"
        config.write_text(f"{every}\n{found}\n", encoding="utf-8")
        program = debian.unpacked(debian.codename(), ["prometheus"], docker.CACHE / "debian") / "usr/bin/prometheus"
        args = [f"--config.file={config}", f"--storage.tsdb.path={work / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
        self.process = owner.start("prometheus", str(program), *args, "--log.level=warn")
        self._ready()

    def _ready(self) -> None:
        end = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/-/ready", timeout=5).close()
                return
            except OSError:
                if time.monotonic() > end or not self.process.running():
                    raise RuntimeError(self.process.report("does not become ready")) from None
                time.sleep(0.05)

    def ask(self, expression: str, begun: float, ended: float) -> list[dict]:
        """The series of an expression over a time, each with at least one number."""
        asked = {"query": expression, "start": f"{begun:.3f}", "end": f"{ended:.3f}", "step": f"{READ_EVERY_S}"}
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query_range?{urllib.parse.urlencode(asked)}", timeout=30) as answer:
                found = json.loads(answer.read())["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"Prometheus refuses {expression}: {error.read().decode()}") from None
        series = []
        for one in found:
            values = [(at, float(value)) for at, value in one["values"]]
            points = [(at, value) for at, value in values if math.isfinite(value)]
            if points:
                series.append({"labels": one["metric"], "points": points})
        return series


def filled(prometheus: Prometheus, begun: float, ended: float) -> list[dict]:
    """The panels as they stand in the dashboard, each with its series. One whose query finds nothing is an error."""
    panels, empty = [], []
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        kind, title = panel["type"], panel["title"]
        shown = {"kind": kind, "title": title, "place": panel["gridPos"], "about": panel.get("description", "")}
        if kind != "row":
            shown["unit"] = panel["fieldConfig"]["defaults"]["unit"]
            shown["series"] = []
            for target in panel["targets"]:
                series = prometheus.ask(target["expr"], begun, ended)
                if not series:
                    empty.append(f"{title}: {target['expr']}")
                for one in series:
                    name = re.sub(r"{{\s*(\w+)\s*}}", lambda found, one=one: one["labels"].get(found[1], ""), target["legendFormat"])
                    shown["series"].append({"name": name.strip(), "points": one["points"]})
        panels.append(shown)
    assert not empty, "queries that find nothing:\n  " + "\n  ".join(empty)
    return panels
