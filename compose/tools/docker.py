"""The container engine and its command line: what is there is used, what is missing is fetched or said.

Owns: how `docker` and `docker compose` are called, and an engine of our own for machines where none runs.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from time import monotonic, sleep

import debian
from say import Trouble, say

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "target" / "compose"
PLUGINS = ("compose", "buildx")


def docker(*args: str, check: bool = True, timeout: float | None = 300) -> str:
    """Runs `docker ..`; what it says on standard output."""
    try:
        done = subprocess.run(["docker", *args], capture_output=True, text=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise Trouble(f"docker {' '.join(args[:3])} has not ended after {timeout:.0f} s") from error
    except OSError as error:
        raise Trouble("there is no command `docker`: install Docker, or use scripts/dev up --processes") from error
    if check and done.returncode:
        raise Trouble(f"docker {' '.join(args[:4])} failed: {(done.stderr or done.stdout).strip()[-3000:]}")
    return done.stdout


def engine_answers() -> bool:
    if not shutil.which("docker"):
        return False
    done = subprocess.run(["docker", "version"], capture_output=True, check=False, timeout=30)
    return done.returncode == 0


def need_engine() -> None:
    if not engine_answers():
        raise Trouble("no container engine answers: start Docker, or use scripts/dev up --processes, which needs none")


def need_plugins() -> None:
    """`docker compose` and `docker buildx`: where they are missing, those of a newer Debian, beside the system."""
    missing = [name for name in PLUGINS if subprocess.run(["docker", name, "version"], capture_output=True, check=False).returncode]
    if not missing:
        return
    root = debian.unpacked("trixie", [f"docker-{name}" for name in PLUGINS], CACHE / "debian")
    config = CACHE / "docker-config"
    (config / "cli-plugins").mkdir(parents=True, exist_ok=True)
    for name in PLUGINS:
        link = config / "cli-plugins" / f"docker-{name}"
        link.unlink(missing_ok=True)
        link.symlink_to(root / "usr/libexec/docker/cli-plugins" / f"docker-{name}")
    # Who has logged in somewhere stays logged in.
    own = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker")) / "config.json"
    if own.is_file() and own.parent != config:
        shutil.copy(own, config / "config.json")
    os.environ["DOCKER_CONFIG"] = str(config)


class OwnEngine:
    """An engine with a socket and data of its own, for as long as it is needed; nothing of it stays."""

    def __init__(self):
        self.home = Path(tempfile.mkdtemp(prefix="trunkline-engine-"))
        self.log = self.home / "log"
        self.child: subprocess.Popen | None = None
        self.before: dict[str, str] = {}

    def start(self) -> None:
        """Starts it and lets `docker` find it; raises what it said if it does not start."""
        daemon = shutil.which("dockerd") or "/usr/sbin/dockerd"
        self.before = {"forward": read("/proc/sys/net/ipv4/ip_forward"), "rules": rules(), "links": links()}
        socket = f"unix://{self.home / 'd.sock'}"
        argv = [daemon, "--host", socket, "--data-root", str(self.home / "data"), "--exec-root", str(self.home / "exec")]
        argv += ["--pidfile", str(self.home / "pid"), "--log-level", "warn"]
        try:
            with self.log.open("ab") as out:
                self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        except OSError as error:
            raise Trouble(f"{daemon}: {error}") from error
        os.environ["DOCKER_HOST"] = socket
        end = monotonic() + 30
        while not engine_answers():
            if self.child.poll() is not None or monotonic() > end:
                said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise Trouble("the engine does not start: " + (said[-1] if said else f"exit code {self.child.poll()}"))
            sleep(0.2)

    def stop(self) -> None:
        """Ends it and removes its data, its bridge and its rules."""
        if self.child and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        os.environ.pop("DOCKER_HOST", None)
        if "DOCKER" not in self.before.get("rules", "") and shutil.which("iptables"):
            forget_rules()
        if self.before.get("forward") == "0":
            Path("/proc/sys/net/ipv4/ip_forward").write_text("0", encoding="utf-8")
        for link in set(links().split()) - set(self.before.get("links", "").split()):
            if link.startswith(("docker", "br-", "veth")):
                subprocess.run(["ip", "link", "delete", link], capture_output=True, check=False)
        for mount in reversed(read("/proc/mounts").splitlines()):
            where = mount.split()[1]
            if where.startswith(str(self.home)):
                subprocess.run(["umount", "-l", where], capture_output=True, check=False)
        shutil.rmtree(self.home, ignore_errors=True)


def install_engine() -> None:
    """The engine's programs, by the system's package manager; nothing is started by that."""
    if shutil.which("docker") and (shutil.which("dockerd") or Path("/usr/sbin/dockerd").exists()):
        return
    say("installing docker.io and iptables")
    policy = Path("/usr/sbin/policy-rc.d")
    ours = os.getuid() == 0 and not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
        policy.chmod(0o755)
    try:
        debian.run([str(ROOT / "scripts" / "install"), "dockerd=docker.io", "iptables=iptables", "ip=iproute2"])
        # Newer Debians have the command in a package of its own.
        debian.run([str(ROOT / "scripts" / "install"), "docker=docker-cli"])
    finally:
        if ours:
            policy.unlink()


def forget_rules() -> None:
    """Removes the chains of the engine and what jumps to them. There were none before."""
    for table in ("filter", "nat", "raw", "mangle"):
        listed = subprocess.run(["iptables", "-t", table, "-S"], capture_output=True, text=True, check=False).stdout.splitlines()
        ours = [line for line in listed if line.startswith("-A") and ("DOCKER" in line or "docker0" in line or " br-" in line)]
        ours += [line for line in listed if line.startswith("-A POSTROUTING") and "MASQUERADE" in line and "172." in line]
        for line in dict.fromkeys(ours):
            subprocess.run(["iptables", "-t", table, "-D", *line.split()[1:]], capture_output=True, check=False)
        for line in listed:
            if line.startswith("-N DOCKER"):
                for verb in ("-F", "-X"):
                    subprocess.run(["iptables", "-t", table, verb, line.split()[1]], capture_output=True, check=False)
    subprocess.run(["iptables", "-P", "FORWARD", "ACCEPT"], capture_output=True, check=False)


def rules() -> str:
    if not shutil.which("iptables-save"):
        return ""
    return subprocess.run(["iptables-save"], capture_output=True, text=True, check=False).stdout


def links() -> str:
    return " ".join(sorted(path.name for path in Path("/sys/class/net").iterdir()))


def read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
