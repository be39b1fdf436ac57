"""Every series that rules, the dashboard and autoscalers use exists in what the binary shows, with the labels they use.

The processes are started and used until all families are there; what counts is `/metrics`, not the source.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "harness"))

import wire
import yaml
from mesh import Mesh, toml

# Of Prometheus itself, and the labels that it adds.
OWN = {"up": {"job", "instance", "service"}, "ALERTS": {"alertname"}}
ADDED = {"job", "instance", "service"}
# Labels whose values are all shown from the start.
CLOSED = {"reason", "fate", "then", "role", "registry"}
WORDS = {"by", "without", "on", "ignoring", "and", "or", "unless", "bool", "offset", "group_left", "group_right", "inf", "nan"}
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPED = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
SAMPLE = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Known = dict[str, dict[str, set[str]]]


def used(expression: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """The series of an expression, each with what is asked of its labels."""
    bare = GROUPED.sub(" ", re.sub(r"\[[^]]*\]", " ", expression))
    for found in SELECTOR.finditer(bare):
        name = found[1]
        if name in WORDS or bare[found.end(1) :].lstrip().startswith("(") or bare[: found.start()].endswith(('"', "=", "~")):
            continue
        if re.match(r"^[\d.]", name) or bare[: found.start()].count('"') % 2:
            continue
        yield name, [(label, how, value) for label, how, value in MATCHER.findall(found[2] or "")]


def problems(where: str, expression: str, known: Known) -> Iterator[str]:
    """What of an expression does not exist."""
    labels: set[str] = set(ADDED)
    for name, matchers in used(expression):
        if name in OWN:
            labels |= OWN[name]
            continue
        if name not in known:
            yield f"{where}: no process has the series {name}"
            continue
        labels |= set(known[name])
        for label, how, value in matchers:
            if label in ADDED or label == "le":
                continue
            if label not in known[name]:
                yield f"{where}: {name} has no label {label}"
            elif label in CLOSED and how in ("=", "=~"):
                strange = [word for word in value.split("|") if word not in known[name][label]]
                if strange:
                    yield f"{where}: {label} of {name} is never {', '.join(strange)}"
    for group in GROUPED.findall(expression):
        for label in filter(None, (word.strip() for word in group.split(","))):
            if label not in labels and label != "le":
                yield f"{where}: no series there has the label {label}"


def expressions() -> Iterator[tuple[str, str]]:
    """All that are asked of Prometheus, each with where it stands."""
    rules = yaml.safe_load((ROOT / "compose/prometheus/rules.yml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield f"rules.yml, {rule.get('alert', rule.get('record'))}", rule["expr"]
    board = json.loads((ROOT / "compose/grafana/dashboards/trunkline.json").read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield f"dashboard, {panel['title']}", target["expr"]


def shown(text: str, into: Known) -> None:
    """Adds the series of one /metrics."""
    for line in text.splitlines():
        found = SAMPLE.match(line)
        if not line.startswith("#") and found:
            labels = into.setdefault(found[1], {})
            for label, value in LABEL.findall(found[2] or ""):
                labels.setdefault(label, set()).add(value)


def look(programs: Path, work: Path) -> tuple[Known, set[str]]:
    """Starts one process of each kind with a Redis, uses them, and reads what they show; and the paths of the admin listener."""
    port = free()
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(work), "--maxmemory-policy", "noeviction"]
    if not shutil.which("redis-server"):
        raise RuntimeError("redis-server is missing: scripts/stores installs it")
    redis = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        with Mesh(programs, work) as mesh:
            return use(mesh, port)
    finally:
        redis.terminate()
        redis.wait()


def use(mesh: Mesh, redis: int) -> tuple[Known, set[str]]:
    keys = {"current": "k", "ring": {"k": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}}
    store = {"redis": [f"redis://127.0.0.1:{redis}"]}
    admins = []

    def role(name: str, settings: dict, more: dict | None = None) -> str:
        config = mesh.work / f"{name}.toml"
        tables = {name: {"listen": "127.0.0.1:0", **settings}, "keys": keys, "store": store if name == "session" else {}, **(more or {})}
        config.write_text(toml(tables), encoding="utf-8")
        process = mesh.start(name, "trunkline", name, "--config", str(config), "--set", "admin.listen=127.0.0.1:0")
        address = process.address(name)
        admins.append(process.address("admin"))
        return address

    tools = role("tool-registry", {})
    session = role("session", {"registries": [{"address": tools}]})
    url = role("gateway", {"sessions": [{"address": session, "slots": "all"}]})
    # One that nobody asks, for what only those show that have certificates.
    mesh.start("certificates", "trunkline", "certificates", "--dir", str(mesh.work / "certificates")).ended()
    files = {key: str(mesh.work / "certificates" / name) for key, name in (("certificate", "registry.pem"), ("key", "registry.key"), ("ca", "ca.pem"))}
    role("resource-registry", {}, {"mtls": files})
    end = monotonic() + 30
    while "calculator" not in str(wire.modern(url, "tools/list").json()):
        if monotonic() > end:
            raise RuntimeError("the tools do not come")
        sleep(0.05)
    call = {"name": "calculator", "arguments": {"operation": "add", "a": 1, "b": 2}}
    wire.modern(url, "tools/call", call).messages()
    wire.modern(url, "tools/call", {"name": "none"}).messages()
    older = wire.Session(url).open()
    older.result("tools/call", call)
    older.delete().body()
    known: Known = {}
    for admin in admins:
        with urllib.request.urlopen(f"{admin}/metrics", timeout=10) as answer:
            shown(answer.read().decode(), known)
    try:
        urllib.request.urlopen(f"{admins[0]}/", timeout=10).close()
        raise RuntimeError("the admin listener answers on /")
    except urllib.error.HTTPError as error:
        paths = set(re.findall(r"/\w+", error.read().decode()))
    return known, paths


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
