"""Checks what is shipped for containers, Kubernetes, Prometheus and Grafana against schemas, itself and the binary: `scripts/manifests`.

A check that finds nothing proves nothing, so each is shown mistakes that were planted, and has to find them.
"""

import copy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import alerts
import debian
import layer
import series
from docker import CACHE, ROOT
from images import built
from rendered import Binary, Rendered, render
from shipped import Shipped

KUBERNETES = ROOT / "compose" / "kubernetes"
OVERLAYS = ("development", "production")
# Where the numbers of pods follow the load.
SCALED = ("production",)


def container(found: Rendered, role: str) -> dict:
    return found.role(role)["spec"]["template"]["spec"]["containers"][0]


def text_of(found: Rendered, kind: str, name: str) -> dict:
    """The values of a map whose name ends in a hash of them."""
    return next(document["data"] for document in found.of(kind) if document["metadata"]["name"].startswith(name))


def edit(found: Rendered, kind: str, name: str, key: str, before: str, after: str) -> None:
    values = text_of(found, kind, name)
    assert before in values[key], (key, before)
    values[key] = values[key].replace(before, after)


# Each changes the production overlay; the word has to be in what is found.
PLANTED: list[tuple[str, str, Callable[[Rendered], object]]] = [
    ("a path that probes ask for", "/ready,", lambda r: container(r, "session")["readinessProbe"]["httpGet"].update(path="/ready")),
    ("a port that probes ask", "asks port 9091", lambda r: container(r, "gateway")["livenessProbe"]["httpGet"].update(port=9091)),
    ("the port of a container", "listens on 7101", lambda r: container(r, "session")["ports"][0].update(containerPort=7110)),
    ("the port of a service", "no container has the port", lambda r: r.named("Service", "gateway")["spec"]["ports"][0].update(targetPort="htpp")),
    ("a key of the configuration", "drain_grace", lambda r: edit(r, "ConfigMap", "trunkline-config", "trunkline.toml", "drain_grace_s", "drain_grace")),
    ("a variable of the environment", "TRUNKLINE_STORE__REDDIS", lambda r: text_of(r, "ConfigMap", "trunkline-environment").update(TRUNKLINE_STORE__REDDIS="[]")),
    ("a flag", "--configuration", lambda r: container(r, "session").update(args=["session", "--configuration", "x"])),
    ("a subcommand", "tools-registry", lambda r: container(r, "tool-registry")["args"].__setitem__(0, "tools-registry")),
    ("a grace shorter than the drain", "is killed after 15 s", lambda r: r.role("gateway")["spec"]["template"]["spec"].update(terminationGracePeriodSeconds=15)),
    ("a series to scale by", "trunkline_session_count", lambda r: r.named("HorizontalPodAutoscaler", "session")["spec"]["metrics"][0]["pods"]["metric"].update(name="trunkline_session_count")),
    ("the target of an autoscaler", "no Deployment sessions", lambda r: r.named("HorizontalPodAutoscaler", "session")["spec"]["scaleTargetRef"].update(name="sessions")),
    ("the selector of a budget", "PodDisruptionBudget session: its selector", lambda r: r.named("PodDisruptionBudget", "session")["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/component": "sessions"})),
    ("a port in a network policy", "nobody listens on 7102", lambda r: r.named("NetworkPolicy", "trunkline-session")["spec"]["ingress"][0]["ports"][0].update(port=7102)),
    ("a token that is mounted", "token is mounted", lambda r: r.named("ServiceAccount", "trunkline-session").update(automountServiceAccountToken=True)),
    ("a number written as text", "replicas", lambda r: r.role("gateway")["spec"].update(replicas="2")),
    ("a member that does not exist", "terminationGracePeriod", lambda r: r.role("gateway")["spec"]["template"]["spec"].update(terminationGracePeriod=30)),
    ("a secret that does not exist", "there is no Secret", lambda r: container(r, "gateway")["envFrom"][1]["secretRef"].update(name="trunkline-key")),
    ("a file that is not mounted", "the program refuses", lambda r: container(r, "gateway")["volumeMounts"].pop()),
    ("a root file system to write to", "may write", lambda r: container(r, "gateway")["securityContext"].pop("readOnlyRootFilesystem")),
    ("the host of the ingress", "does not allow the host", lambda r: r.named("Ingress", "gateway")["spec"]["rules"][0].update(host="other.example.com")),
    ("an address in front of session nodes", "session has no headless Service", lambda r: r.named("Service", "session")["spec"].pop("clusterIP")),
    ("an autoscaler that is missing", "gateway has 0 Horizontal", lambda r: r.documents.remove(r.named("HorizontalPodAutoscaler", "gateway"))),
    ("an autoscaler of a registry that is missing", "prompt-registry has 0 Horizontal", lambda r: r.documents.remove(r.named("HorizontalPodAutoscaler", "prompt-registry"))),
    ("an autoscaler by CPU alone", "nothing that it shows", lambda r: r.named("HorizontalPodAutoscaler", "session")["spec"].update(metrics=r.named("HorizontalPodAutoscaler", "session")["spec"]["metrics"][-1:])),
    ("a network where all is allowed", "no policy denies everything", lambda r: r.documents.remove(r.named("NetworkPolicy", "trunkline-nothing"))),
    ("a network where all may leave", "no policy denies everything", lambda r: r.named("NetworkPolicy", "trunkline-nothing")["spec"].update(policyTypes=["Ingress"])),
    ("a policy without ports", "on every port", lambda r: r.named("NetworkPolicy", "trunkline-session")["spec"]["ingress"][0].pop("ports")),
    ("the label of the zone", "nobody knows the field", lambda r: container(r, "session")["env"][0]["valueFrom"]["fieldRef"].update(fieldPath="metadata.labels['topology.kubernetes.io/zones']")),
    ("a zone that is not told", "not told the zone", lambda r: container(r, "tool-registry")["env"].pop(0)),
    ("a key that pods are spread over", "is not spread over topology.kubernetes.io/zone", lambda r: r.role("session")["spec"]["template"]["spec"]["topologySpreadConstraints"][0].update(topologyKey="topology.kubernetes.io/region")),
    ("pods that are counted with others", "counts other pods", lambda r: r.role("session")["spec"]["template"]["spec"]["topologySpreadConstraints"][1]["labelSelector"].update(matchLabels={"app.kubernetes.io/name": "trunkline"})),
    ("a certificate of another role", "the program refuses", lambda r: r.role("session")["spec"]["template"]["spec"]["volumes"][1]["secret"].update(secretName="trunkline-mtls-gateway")),
]
MISNAMED = [
    ("sum(trunkline_slots_ownd)", "trunkline_slots_ownd"),
    ("sum by (node) (trunkline_sessions)", "label node"),
    ('rate(trunkline_refusals_total{why="rate"}[1m])', "no label why"),
    ('rate(trunkline_refusals_total{reason="hunger"}[1m])', "never hunger"),
    ('histogram_quantile(0.9, sum by (le) (rate(mcp_server_operation_seconds_bucket[5m])))', "mcp_server_operation_seconds_bucket"),
]


def board(found: Shipped) -> dict:
    """A panel that asks for something."""
    return next(panel for panel in found.boards["trunkline.json"]["panels"] if panel.get("targets"))


def swap(found: Shipped, service: str, before: str, after: str) -> None:
    """Changes what a service is told."""
    command = found.services()[service]["command"]
    assert before in command, (service, before)
    found.services()[service]["command"] = command.replace(before, after)


# Each changes what is shipped for containers.
MISPLACED: list[tuple[str, str, Callable[[Shipped], object]]] = [
    ("a session node too few", "session runs 2 times", lambda s: s.services()["session"]["deploy"].update(replicas=2)),
    ("an etcd that is alone with another", "etcd has 2 members", lambda s: s.services().pop("etcd-2")),
    ("a Redis that forgets", "redis-primary is not told --maxmemory-policy", lambda s: swap(s, "redis-primary", "noeviction", "allkeys-lru")),
    ("a Redis that is alone", "confirms what it alone has", lambda s: swap(s, "redis-primary", "--min-replicas-to-write 1", "")),
    ("a replica of nobody", "is no replica", lambda s: swap(s, "redis-replica", "--replicaof", "--port")),
    ("a service without a health check", "demo has no health check", lambda s: s.services()["demo"].pop("healthcheck")),
    ("an image without a health check", "gateway has no health check", lambda s: setattr(s, "dockerfile", s.dockerfile.replace("\nHEALTHCHECK ", "\n# "))),
    ("a health check that is off", "its health check is off", lambda s: s.services()["jaeger"].update(healthcheck={"disable": True})),
    ("sources that are there too early", "are compiled with the sources", lambda s: setattr(s, "dockerfile", s.dockerfile.replace("COPY --from=plan /plan .", "COPY . ."))),
    ("a start that waits for no health", "by service_started", lambda s: s.services()["nginx"]["depends_on"]["gateway"].update(condition="service_started")),
    ("a port for everybody", "grafana: 3000:3000 can be reached", lambda s: s.services()["grafana"].update(ports=["3000:3000"])),
    ("a version that is fixed", "is no variable", lambda s: s.services()["prometheus"].update(image="prom/prometheus:v3.5.0")),
    ("a file that is not there", "there is no ./nginx.conf", lambda s: s.services()["nginx"].update(volumes=["./nginx.conf:/etc/nginx/nginx.conf:ro"])),
    ("a stream that ends early", "sooner than after 600 s", lambda s: setattr(s, "nginx", s.nginx.replace("proxy_read_timeout 1h", "proxy_read_timeout 60s"))),
    ("the time-out that nginx has by itself", "sooner than after 600 s", lambda s: setattr(s, "nginx", s.nginx.replace("proxy_read_timeout", "# "))),
    ("events that are kept back", "proxy_buffering is not off", lambda s: setattr(s, "nginx", s.nginx.replace("proxy_buffering off", "proxy_buffering on"))),
    ("a data source of another name", "has no prometheus called", lambda s: s.sources["datasources"][0].update(uid="metrics")),
    ("a panel that asks somebody else", "has no prometheus called other", lambda s: board(s)["datasource"].update(uid="other")),
    ("a data source elsewhere", "is not at http://prometheus:9091", lambda s: s.sources["datasources"][0].update(url="http://prometheus:9091")),
    ("dashboards elsewhere", "looks for dashboards in", lambda s: s.providers["providers"][0]["options"].update(path="/etc/dashboards")),
    ("a first page that does not exist", "its first page", lambda s: s.boards.update(other=s.boards.pop("trunkline.json"))),
]


class Count:
    """What was checked."""

    passed = failed = 0

    def check(self, what: str, problems: list[str]) -> None:
        if problems:
            self.failed += 1
            print(f"FAILED  {what}", *problems[:10], sep="\n        ", flush=True)
        else:
            self.passed += 1
            print(f"ok      {what}", flush=True)


def kubectl() -> str:
    """One that can kustomize: this machine's, or that of a newer Debian."""
    own = shutil.which("kubectl")
    if own and subprocess.run([own, "kustomize", "--help"], capture_output=True, check=False).returncode == 0:
        return own
    return str(debian.unpacked("trixie", ["kubernetes-client"], CACHE / "debian") / "usr/bin/kubectl")


def prometheus(count: Count) -> None:
    """The rules are understood, and fire when they should, every one of them."""
    found = alerts.Alerts.read(ROOT / "compose/prometheus")
    count.check(f"{len(found.alerts())} alerts are seen to fire", list(found.problems()))
    for what, word, plant in alerts.PLANTED:
        told = found.planted(plant)
        count.check(f"convicts {what}", [] if any(word in problem for problem in told) else [f"it says: {told}"])
    promtool = shutil.which("promtool") or str(debian.unpacked(debian.codename(), ["prometheus"], CACHE / "debian") / "usr/bin/promtool")
    commands = (["check", "config", "--syntax-only", "prometheus.yml"], ["check", "rules", "rules.yml"], ["test", "rules", "rules.test.yml"])
    for command in commands:
        done = subprocess.run([promtool, *command], cwd=ROOT / "compose/prometheus", capture_output=True, text=True, check=False)
        count.check(f"promtool {' '.join(command)}", [done.stdout + done.stderr] if done.returncode else [])


def named(count: Count, known: series.Known) -> None:
    asked = list(series.expressions())
    found = [problem for where, expression in asked for problem in series.problems(where, expression, known)]
    count.check(f"{len(asked)} expressions of rules and dashboard use what {len(known)} series have", found)
    for expression, word in MISNAMED:
        told = list(series.problems("planted", expression, known))
        count.check(f"convicts {expression}", [] if any(word in problem for problem in told) else [f"it says: {told}"])


def manifests(count: Count, binary: Binary) -> None:
    tool = kubectl()
    documents: dict[str, list[dict]] = {}
    for overlay in OVERLAYS:
        documents[overlay] = render(KUBERNETES / "overlays" / overlay, tool)
        found = Rendered(documents[overlay], binary, overlay in SCALED).problems()
        count.check(f"{overlay}: {len(documents[overlay])} documents", found)
    for what, word, plant in PLANTED:
        planted = Rendered(copy.deepcopy(documents["production"]), binary, scaled=True)
        plant(planted)
        told = planted.problems()
        count.check(f"convicts {what}", [] if any(word in problem for problem in told) else [f"it says: {told}"])


def contained(count: Count) -> None:
    """What containers are made of, of all profiles."""
    found = Shipped.read(ROOT)
    count.check(f"{len(found.services())} services of compose.yaml, and what they read", found.problems())
    for what, word, plant in MISPLACED:
        planted = copy.deepcopy(found)
        plant(planted)
        told = planted.problems()
        count.check(f"convicts {what}", [] if any(word in problem for problem in told) else [f"it says: {told}"])


def dependencies(count: Count) -> None:
    """The layer of the image that holds them is used again as long as it may be."""
    held, found = layer.problems()
    count.check(f"the layer of dependencies: {held}", found)
    for what, word, *planted in layer.PLANTED:
        _held, told = layer.problems(tuple(planted))
        count.check(f"convicts {what}", [] if any(word in problem for problem in told) else [f"it says: {told}"])


def placeholders(count: Count, binary: Binary) -> None:
    """Nobody starts in production with what stands in version control."""
    environment = {"TRUNKLINE_KEYS__CURRENT": "k1", "TRUNKLINE_KEYS__RING": '{ k1 = "REPLACE" }'}
    code, said = binary.ask(["session", "--check"], environment)
    count.check("a placeholder is no key", [] if code == 2 else [f"exit code {code}: {said}"])


def main() -> int:
    count = Count()
    program = built("trunkline")
    with tempfile.TemporaryDirectory(prefix="trunkline-manifests-") as work:
        folder = Path(work)
        known, paths = series.look(program.parent, folder)
        made = subprocess.run([str(program), "certificates", "--dir", str(folder / "certificates")], capture_output=True, check=False)
        count.check("certificates for the check", [] if made.returncode == 0 else [made.stderr.decode()])
        binary = Binary(str(program), paths, set(known), folder)
        named(count, known)
        prometheus(count)
        contained(count)
        dependencies(count)
        manifests(count, binary)
        placeholders(count, binary)
    print(f"{count.passed} passed, {count.failed} failed")
    return 1 if count.failed else 0


if __name__ == "__main__":
    sys.exit(main())
