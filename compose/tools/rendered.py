"""What kustomize makes of an overlay, and what is wrong with it: against the schemas of Kubernetes, within itself, and against the binary.

Must not know a value that the binary knows: ports, paths and accepted keys are asked of it.
"""

import base64
import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import kubernetes_validate
import yaml

SCHEMAS = "1.37.0"
ROLES = ("gateway", "session", "tool-registry", "resource-registry", "prompt-registry")
# Time between the last thing a drain waits for and the end of the process.
MARGIN_S = 3
# The labels of nodes that pods are spread over, and the one of them that a process is told.
ZONE = "topology.kubernetes.io/zone"
SPREAD = {ZONE, "kubernetes.io/hostname"}
# What the kubelet would put in place of a field of the pod.
STANDS_IN = "zone-1"
FIELDS = {f"metadata.labels['{ZONE}']": STANDS_IN}
# Who is scaled by what it shows itself; the rest by CPU.
BY_SERIES = ("gateway", "session")
# Volumes of the image.
IN_IMAGE = ("/srv/resources", "/srv/prompts")
LISTENS = re.compile(r'^listen = "[^"]*:(\d+)"$', re.MULTILINE)


@dataclass
class Binary:
    """The program, and what it has said about itself."""

    program: str
    paths: set[str]
    series: set[str]
    work: Path
    # What was asked before is not asked again: most of a planted document is as it was.
    known: dict[str, tuple[int, str]] = field(default_factory=dict)

    def ask(self, args: list[str], environment: dict[str, str], files: Path | None = None) -> tuple[int, str]:
        """Its exit code, and what it says; `files` are what it may read."""
        read = {str(path): path.read_text(encoding="utf-8") for path in sorted(files.rglob("*")) if path.is_file()} if files else {}
        key = json.dumps([args, environment, read], sort_keys=True)
        if key not in self.known:
            plain = {"PATH": os.environ["PATH"], **environment}
            done = subprocess.run([self.program, *args], env=plain, capture_output=True, text=True, check=False, timeout=60)
            self.known[key] = (done.returncode, done.stdout if done.returncode == 0 else done.stderr.strip())
        return self.known[key]


def render(overlay: Path, kubectl: str) -> list[dict]:
    done = subprocess.run([kubectl, "kustomize", str(overlay)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{overlay.name} does not render: {done.stderr.strip()}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


class Rendered:
    """The documents of one overlay."""

    def __init__(self, documents: list[dict], binary: Binary, scaled: bool):
        self.documents = copy.deepcopy(documents)
        self.binary = binary
        # Whether the numbers of pods follow the load.
        self.scaled = scaled

    def of(self, kind: str) -> list[dict]:
        return [document for document in self.documents if document.get("kind") == kind]

    def named(self, kind: str, name: str) -> dict | None:
        return next((document for document in self.of(kind) if document["metadata"]["name"] == name), None)

    def role(self, name: str) -> dict:
        """The deployment of a role."""
        found = self.named("Deployment", name)
        if found is None:
            raise KeyError(f"there is no Deployment {name}")
        return found

    def problems(self) -> list[str]:
        """Everything that is wrong."""
        found = list(self.by_schema())
        if found:
            # What has another shape than it should cannot be looked into.
            return found
        checks = (self.within, self.accounts, self.scaling, self.network, self.denied, self.ingress)
        found += [problem for check in checks for problem in check()]
        for name in ROLES:
            found += self.deployment(name)
        return found

    def by_schema(self) -> Iterator[str]:
        for document in self.documents:
            name = f"{document.get('kind')} {document.get('metadata', {}).get('name')}"
            try:
                kubernetes_validate.validate(document, SCHEMAS, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{name}: {error.message} at {'.'.join(map(str, error.path))}"

    # -- what documents say of each other -----------------------------------------------------------------------------------------

    def within(self) -> Iterator[str]:
        """Selectors find pods, and ports by name exist there."""
        pods = [document["spec"]["template"] for document in self.of("Deployment")]
        for service in self.of("Service"):
            name, chosen = f"Service {service['metadata']['name']}", matching(pods, service["spec"]["selector"])
            if not chosen:
                yield f"{name}: its selector finds no pod"
            for port in service["spec"]["ports"]:
                for pod in chosen:
                    if port["targetPort"] not in {key for found in ports(pod) for key in (found.get("name"), found["containerPort"])}:
                        yield f"{name}: no container has the port {port['targetPort']}"
        for role in ROLES[1:]:
            # Others find these pods one by one: an address in front of them would choose for them.
            service = self.named("Service", role)
            if not service or service["spec"].get("clusterIP") != "None":
                yield f"{role} has no headless Service"
        for budget in self.of("PodDisruptionBudget"):
            if not matching(pods, budget["spec"]["selector"]["matchLabels"]):
                yield f"PodDisruptionBudget {budget['metadata']['name']}: its selector finds no pod"
        for role in ROLES:
            budgets = [budget for budget in self.of("PodDisruptionBudget") if budget["metadata"]["name"] == role]
            if not budgets:
                yield f"{role} has no PodDisruptionBudget"

    def accounts(self) -> Iterator[str]:
        """Accounts exist, may nothing, and nobody has their token."""
        for kind in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
            for document in self.of(kind):
                yield f"{kind} {document['metadata']['name']}: nothing of the mesh needs rights"
        for account in self.of("ServiceAccount"):
            if account.get("automountServiceAccountToken") is not False:
                yield f"ServiceAccount {account['metadata']['name']}: its token is mounted"
        for name in ROLES:
            spec = self.role(name)["spec"]["template"]["spec"]
            if spec.get("automountServiceAccountToken") is not False:
                yield f"{name}: the token of its account is mounted"
            if not self.named("ServiceAccount", spec.get("serviceAccountName", "default")):
                yield f"{name}: there is no ServiceAccount {spec.get('serviceAccountName')}"

    def scaling(self) -> Iterator[str]:
        """What is scaled exists, by series that exist."""
        for scaler in self.of("HorizontalPodAutoscaler"):
            name, target = f"HorizontalPodAutoscaler {scaler['metadata']['name']}", scaler["spec"]["scaleTargetRef"]
            if not self.named(target["kind"], target["name"]):
                yield f"{name}: there is no {target['kind']} {target['name']}"
            for metric in scaler["spec"]["metrics"]:
                if metric["type"] == "Pods" and metric["pods"]["metric"]["name"] not in self.binary.series:
                    yield f"{name}: no process has the series {metric['pods']['metric']['name']}"
        for role in ROLES if self.scaled else ():
            own = [scaler for scaler in self.of("HorizontalPodAutoscaler") if scaler["spec"]["scaleTargetRef"]["name"] == role]
            if len(own) != 1:
                yield f"{role} has {len(own)} HorizontalPodAutoscalers"
            elif role in BY_SERIES and not any(metric["type"] == "Pods" for metric in own[0]["spec"]["metrics"]):
                yield f"{role} is scaled by nothing that it shows itself"

    def network(self) -> Iterator[str]:
        """What a policy lets in is what pods listen on, and every listener is let in."""
        pods = [self.role(name)["spec"]["template"] for name in ROLES]
        open_ports: dict[str, set[int]] = {name: set() for name in ROLES}
        for policy in self.of("NetworkPolicy"):
            name = f"NetworkPolicy {policy['metadata']['name']}"
            chosen = matching(pods, policy["spec"]["podSelector"].get("matchLabels", {}))
            if not chosen:
                yield f"{name}: its selector finds no pod"
            for rule in policy["spec"].get("ingress", []):
                for port in rule.get("ports", []):
                    listening = {found["containerPort"] for pod in chosen for found in ports(pod)}
                    if port["port"] not in listening:
                        yield f"{name}: nobody listens on {port['port']}, which it opens"
                    for pod in chosen:
                        open_ports[component(pod)].add(port["port"])
            for rule in policy["spec"].get("egress", []):
                for peer in rule.get("to", []):
                    labels = peer.get("podSelector", {}).get("matchLabels")
                    listening = {found["containerPort"] for pod in matching(pods, labels or {}) for found in ports(pod)}
                    for port in rule.get("ports", []) if labels else []:
                        if port["port"] not in listening:
                            yield f"{name}: nobody listens on {port['port']} where it leads"
        for pod in pods:
            for port in ports(pod):
                if port["containerPort"] not in open_ports[component(pod)]:
                    yield f"{component(pod)}: no policy lets anybody in on {port['containerPort']}"

    def denied(self) -> Iterator[str]:
        """What no policy lets in or out stays where it is, and no policy lets in everything."""
        every = [policy["spec"] for policy in self.of("NetworkPolicy")]
        nothing = [spec for spec in every if set(spec["policyTypes"]) == {"Ingress", "Egress"} and not spec.get("ingress") and not spec.get("egress")]
        for name in ROLES:
            pod = self.role(name)["spec"]["template"]
            if not any(matching([pod], spec["podSelector"].get("matchLabels", {})) for spec in nothing):
                yield f"{name}: no policy denies everything by default"
        for policy in self.of("NetworkPolicy"):
            if any(not rule.get("ports") for rule in policy["spec"].get("ingress", [])):
                yield f"NetworkPolicy {policy['metadata']['name']}: lets in on every port"

    def ingress(self) -> Iterator[str]:
        """Names that clients use are names that the gateway takes."""
        _code, text = self.effective("gateway")
        for document in self.of("Ingress"):
            for rule in document["spec"]["rules"]:
                if f'"{rule["host"]}"' not in text:
                    yield f"Ingress: the gateway does not allow the host {rule['host']}"
                for path in rule["http"]["paths"]:
                    service = path["backend"]["service"]
                    found = self.named("Service", service["name"])
                    if not found or service["port"].get("name") not in {port["name"] for port in found["spec"]["ports"]}:
                        yield f"Ingress: there is no port {service['port']} of a Service {service['name']}"

    # -- what the binary says of them ---------------------------------------------------------------------------------------------

    def deployment(self, name: str) -> Iterator[str]:
        """The program accepts its command line, environment and files, and listens where the manifest says."""
        spec = self.role(name)["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        code, text = self.effective(name, "--check")
        if code:
            yield f"{name}: the program refuses: {text}"
            return
        _code, text = self.effective(name)
        sections = {part.split("]")[0]: part for part in f"\n{text}".split("\n[")}
        admin = LISTENS.search(sections.get("admin", ""))
        own = LISTENS.search(sections.get(container["args"][0], ""))
        declared = {port["name"]: port["containerPort"] for port in container["ports"]}
        if not admin or declared.get("admin") != int(admin[1]):
            yield f"{name}: the admin listener is on {admin and admin[1]}, the manifest says {declared.get('admin')}"
        if not own or int(own[1]) not in declared.values():
            yield f"{name}: the program listens on {own and own[1]}, the manifest says {declared}"
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]
            if asked["path"] not in self.binary.paths:
                yield f"{name}: {probe} asks for {asked['path']}, the program has {sorted(self.binary.paths)}"
            if asked["port"] not in ("admin", declared.get("admin")):
                yield f"{name}: {probe} asks port {asked['port']}"
        notes = self.role(name)["spec"]["template"]["metadata"].get("annotations", {})
        if notes.get("prometheus.io/path") not in self.binary.paths or notes.get("prometheus.io/port") != str(declared.get("admin")):
            yield f"{name}: Prometheus is sent to {notes}"
        grace = re.search(r"^drain_grace_s = (\d+)$", text, re.MULTILINE)
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        needed = pause + int(grace[1] if grace else 0) + MARGIN_S
        if spec["terminationGracePeriodSeconds"] < needed:
            yield f"{name}: is killed after {spec['terminationGracePeriodSeconds']} s, its drain may take {needed} s"
        secured = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
        if not secured.get("readOnlyRootFilesystem") or not secured.get("runAsNonRoot") or secured.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: may write, be root, or become it"
        if f'zone = "{STANDS_IN}"' not in sections.get("cluster", ""):
            yield f"{name}: is not told the zone of its node"
        yield from self.spread(name)
        if container["args"][0] != name:
            yield f"{name}: runs {container['args'][0]}"

    def spread(self, name: str) -> Iterator[str]:
        """Pods of a role are spread over zones and nodes, those of the role alone."""
        pod = self.role(name)["spec"]["template"]
        others = [self.role(other)["spec"]["template"] for other in ROLES if other != name]
        constraints = pod["spec"].get("topologySpreadConstraints", [])
        if missing := SPREAD - {constraint["topologyKey"] for constraint in constraints}:
            yield f"{name}: is not spread over {', '.join(sorted(missing))}"
        for constraint in constraints:
            labels = constraint["labelSelector"]["matchLabels"]
            if not matching([pod], labels) or matching(others, labels):
                yield f"{name}: counts other pods where it is spread over {constraint['topologyKey']}"

    def effective(self, name: str, question: str = "--dump-config") -> tuple[int, str]:
        """What the program says, given all that the manifest gives it."""
        spec = self.role(name)["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        root = self.binary.work / f"{name}"
        try:
            places = self.mount(spec, container, root)
            environment = {key: moved(value, places) for key, value in self.environment(container).items()}
        except KeyError as missing:
            return 2, str(missing)
        args = [moved(arg, places) for arg in container.get("args", [])]
        return self.binary.ask([*args, question], environment, root)

    def environment(self, container: dict) -> dict[str, str]:
        """As the kubelet makes it: what is named wins over whole maps."""
        values: dict[str, str] = {}
        for source in container.get("envFrom", []):
            for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                if key in source:
                    values |= self.data(kind, source[key]["name"])
        for entry in container.get("env", []):
            source = entry.get("valueFrom", {})
            if "value" in entry:
                values[entry["name"]] = entry["value"]
            elif "secretKeyRef" in source:
                values[entry["name"]] = self.data("Secret", source["secretKeyRef"]["name"])[source["secretKeyRef"]["key"]]
            elif "fieldRef" in source:
                if (path := source["fieldRef"]["fieldPath"]) not in FIELDS:
                    raise KeyError(f"nobody knows the field {path}")
                values[entry["name"]] = FIELDS[path]
        return values

    def data(self, kind: str, name: str) -> dict[str, str]:
        """The values of a map or a secret; those that are to be replaced, replaced."""
        found = self.named(kind, name)
        if found is None:
            raise KeyError(f"there is no {kind} {name}")
        values = dict(found.get("data", {}))
        if kind == "Secret":
            values = {key: base64.b64decode(value).decode() for key, value in values.items()}
        return {key: replaced(key, value, self.binary.work) for key, value in values.items()}

    def mount(self, spec: dict, container: dict, root: Path) -> dict[str, str]:
        """Writes what is mounted below `root`; the places by the paths that the container knows."""
        shutil.rmtree(root, ignore_errors=True)
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        places = {path: str(root / path.lstrip("/")) for path in IN_IMAGE}
        contents: dict[str, dict[str, str]] = {}
        for mounted in container.get("volumeMounts", []):
            volume, path = volumes[mounted["name"]], mounted["mountPath"]
            places[path] = str(root / path.lstrip("/"))
            if "configMap" in volume:
                contents[path] = self.data("ConfigMap", volume["configMap"]["name"])
            elif "secret" in volume and volume["secret"]["secretName"].startswith("trunkline-mtls-"):
                contents[path] = certificates(self.binary.work, volume["secret"]["secretName"].removeprefix("trunkline-mtls-"))
            elif "secret" in volume:
                contents[path] = self.data("Secret", volume["secret"]["secretName"])
        for place in places.values():
            Path(place).mkdir(parents=True, exist_ok=True)
        for path, files in contents.items():
            for file, text in files.items():
                (Path(places[path]) / file).write_text(moved(text, places), encoding="utf-8")
        return places


def certificates(work: Path, role: str) -> dict[str, str]:
    """What `trunkline certificates` has made for a role, by the names of Kubernetes."""
    folder = work / "certificates"
    names = {"tls.crt": f"{role}.pem", "tls.key": f"{role}.key", "ca.crt": "ca.pem"}
    return {key: (folder / file).read_text(encoding="utf-8") for key, file in names.items()}


def replaced(key: str, value: str, work: Path) -> str:
    """A value in place of a placeholder."""
    if "REPLACE" not in value:
        return value
    if key.endswith(".pem"):
        return (work / "certificates" / "ca.pem").read_text(encoding="utf-8")
    return value.replace("REPLACE", base64.b64encode(bytes(range(32))).decode())


def moved(text: str, places: dict[str, str]) -> str:
    for path in sorted(places, key=len, reverse=True):
        text = re.sub(rf"(?<![\w/]){re.escape(path)}(?=/|\b)", lambda _found, path=path: places[path], text)
    return text


def matching(pods: list[dict], labels: dict[str, str]) -> list[dict]:
    return [pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items()]


def ports(pod: dict) -> list[dict]:
    return [port for container in pod["spec"]["containers"] for port in container.get("ports", [])]


def component(pod: dict) -> str:
    return pod["metadata"]["labels"].get("app.kubernetes.io/component", "")
