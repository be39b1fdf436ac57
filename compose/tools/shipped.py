"""What compose.yaml, nginx.conf, the Dockerfile and Grafana's provisioning say, and what is wrong with it.

Owns: what can be seen without an engine, of all profiles. That it runs is `proof.py`'s.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

# Ends when it is done.
ONCE = "certificates"
# How long a stream may be silent for nginx: much more than the comments of gateways are apart.
SILENCE_S = 600
UNITS_S = {"ms": 0.001, "s": 1, "": 1, "m": 60, "h": 3600, "d": 86400}
# How many there are of each role, and what a Redis is told so that it loses no session.
REPLICAS = {"gateway": 2, "session": 3, "tool-registry": 2, "resource-registry": 2, "prompt-registry": 2}
REDIS = ("--maxmemory-policy noeviction", "--appendonly yes")
NGINX = {"proxy_http_version": "1.1", "proxy_buffering": "off", "proxy_set_header Connection": '""'}
STAGE = re.compile(r"^FROM \S+ AS (\S+)$", re.MULTILINE)


@dataclass
class Shipped:
    """The files, read."""

    folder: Path
    compose: dict
    nginx: str
    dockerfile: str
    sources: dict
    providers: dict
    boards: dict[str, dict]

    @classmethod
    def read(cls, root: Path) -> "Shipped":
        folder = root / "compose"
        read = lambda *parts: folder.joinpath(*parts).read_text(encoding="utf-8")
        return cls(
            folder=folder,
            compose=yaml.safe_load(read("compose.yaml")),
            nginx=read("nginx", "nginx.conf"),
            dockerfile=(root / "Dockerfile").read_text(encoding="utf-8"),
            sources=yaml.safe_load(read("grafana", "provisioning", "datasources", "prometheus.yaml")),
            providers=yaml.safe_load(read("grafana", "provisioning", "dashboards", "trunkline.yaml")),
            boards={path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "grafana/dashboards").glob("*.json"))},
        )

    def services(self) -> dict[str, dict]:
        return self.compose["services"]

    def stages(self) -> dict[str, str]:
        """The stages of the Dockerfile, each with what it does."""
        parts = STAGE.split(self.dockerfile)
        return dict(zip(parts[1::2], parts[2::2], strict=True))

    def problems(self) -> list[str]:
        checks = (self.numbered, self.stored, self.healthy, self.layered, self.awaited, self.published, self.versions, self.mounted, self.balanced, self.provisioned)
        return [problem for check in checks for problem in check()]

    # -- compose.yaml -------------------------------------------------------------------------------------------------------------

    def numbered(self) -> Iterator[str]:
        """One of everything may be lost."""
        for name, count in REPLICAS.items():
            if (found := self.services()[name]["deploy"]["replicas"]) != count:
                yield f"{name} runs {found} times and not {count}"
        if (members := sum(name.startswith("etcd-") for name in self.services())) != 3:
            yield f"etcd has {members} members and not 3"

    def stored(self) -> Iterator[str]:
        """Redis refuses when it is full, and confirms what two have."""
        commands = {name: service["command"] for name, service in self.services().items() if name.startswith("redis-")}
        for name, command in commands.items():
            yield from (f"{name} is not told {words}" for words in REDIS if words not in command)
        if "--min-replicas-to-write 1" not in commands.get("redis-primary", ""):
            yield "redis-primary confirms what it alone has"
        if "--replicaof redis-primary " not in commands.get("redis-replica", ""):
            yield "redis-replica is no replica of redis-primary"

    def healthy(self) -> Iterator[str]:
        """Whoever stays says how it is."""
        checked = {name for name, text in self.stages().items() if "\nHEALTHCHECK " in text}
        for name, service in self.services().items():
            own = service.get("healthcheck", {})
            if own.get("disable"):
                if name != ONCE:
                    yield f"{name}: its health check is off"
            elif not own.get("test") and service.get("build", {}).get("target") not in checked:
                yield f"{name} has no health check"

    def layered(self) -> Iterator[str]:
        """Dependencies are compiled before there are sources, of which a change would compile them again."""
        build = self.stages()["build"]
        order = [build.find(step) for step in ("\nCOPY --from=plan /plan .\n", "\nRUN cargo build ", "\nCOPY . .\n", " && cargo build ")]
        if -1 in order or order != sorted(order):
            yield "Dockerfile: dependencies are compiled with the sources"

    def awaited(self) -> Iterator[str]:
        """Nobody begins before those that it needs are healthy."""
        for name, service in self.services().items():
            for other, how in service.get("depends_on", {}).items():
                wanted = "service_completed_successfully" if other == ONCE else "service_healthy"
                if how["condition"] != wanted:
                    yield f"{name} waits for {other} by {how['condition']}"

    def published(self) -> Iterator[str]:
        for name, service in self.services().items():
            for port in service.get("ports", []):
                if not str(port).startswith("127.0.0.1:"):
                    yield f"{name}: {port} can be reached from other machines"

    def versions(self) -> Iterator[str]:
        for name, service in self.services().items():
            if not re.search(r":\$\{\w+_VERSION:-[\w.-]+\}$", service["image"]):
                yield f"{name}: the version in {service['image']} is no variable"

    def mounted(self) -> Iterator[str]:
        for name, service in self.services().items():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if source.startswith(".") and not (self.folder / source).exists():
                    yield f"{name}: there is no {source}"
                elif not source.startswith(".") and source not in self.compose["volumes"]:
                    yield f"{name}: there is no volume {source}"

    # -- what services read -------------------------------------------------------------------------------------------------------

    def balanced(self) -> Iterator[str]:
        """nginx passes events on as they come, for as long as a stream is silent."""
        for key, value in NGINX.items():
            if not re.search(rf"^\s*{key} {re.escape(value)};$", self.nginx, re.MULTILINE):
                yield f"nginx: {key} is not {value}"
        found = re.search(r"^\s*proxy_read_timeout (\d+)(\w*);$", self.nginx, re.MULTILINE)
        if not found or int(found[1]) * UNITS_S[found[2]] < SILENCE_S:
            yield f"nginx: takes a stream for dead sooner than after {SILENCE_S} s"

    def provisioned(self) -> Iterator[str]:
        """Grafana finds the dashboard, and the dashboard what it asks."""
        grafana = self.services()["grafana"]
        inside = {volume.split(":")[1]: volume.split(":")[0] for volume in grafana["volumes"]}
        if inside.get("/etc/grafana/provisioning") != "./grafana/provisioning":
            yield "Grafana does not read its provisioning"
        paths = [provider["options"]["path"] for provider in self.providers["providers"]]
        for path in paths:
            if inside.get(path) != "./grafana/dashboards":
                yield f"Grafana looks for dashboards in {path}"
        home, name = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].rsplit("/", 1)
        if home not in paths or name not in self.boards:
            yield f"Grafana: its first page {home}/{name} does not exist"
        known = {}
        for source in self.sources["datasources"]:
            known[source["uid"]] = source["type"]
            host, port = source["url"].removeprefix("http://").split(":")
            if not any(str(offered).endswith(f":{port}") for offered in self.services().get(host, {}).get("ports", [])):
                yield f"Grafana: {source['name']} is not at {source['url']}"
        for file, board in self.boards.items():
            for panel in board["panels"]:
                for asked in [panel, *panel.get("targets", [])]:
                    source = asked.get("datasource")
                    if source and known.get(source["uid"]) != source["type"]:
                        yield f"{file}, {panel['title']}: Grafana has no {source['type']} called {source['uid']}"
                if panel.get("targets") and not panel.get("datasource"):
                    yield f"{file}, {panel['title']}: does not say whom it asks"
