"""The images that compose.yaml names: built or pulled; where they cannot be pulled, stand-ins under the same names.

A stand-in holds the same program from this machine's Debian, with the libraries it is linked with, and answers the same command line and
health check. Jaeger's is our own trace page. Grafana has none: its profile is left out.
"""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import debian
from docker import CACHE, ROOT, docker
from say import Trouble, say

# What a health check or an entry point may use.
APPLETS = ("sh", "grep", "wget", "hostname", "sleep", "cat")
PROGRAMS = ("trunkline", "ledger-registry")
# Where an image says that it is a stand-in.
LABEL = "trunkline.stand-in"
JAEGER = b"""#!/bin/sh
# The trace page serves its own machine only; nginx passes on what comes from elsewhere.
here=$(hostname -i)
cat >/tmp/nginx.conf <<END
pid /tmp/nginx.pid;
error_log /dev/stderr warn;
events {}
http {
    access_log off;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    client_max_body_size 0;
    server {
        listen $here:16686;
        location / {
            proxy_pass http://127.0.0.1:16686;
            proxy_set_header Host localhost;
        }
    }
    server {
        listen $here:4317 http2;
        keepalive_requests 1000000000;
        location / {
            grpc_pass grpc://127.0.0.1:4317;
        }
    }
}
END
nginx -c /tmp/nginx.conf
exec trunkline up --data /tmp/page --listen 127.0.0.1:0 --trace-ui 127.0.0.1:16686 --set telemetry.log=warn --set telemetry.sample=0.0
"""
NGINX = b"""#!/bin/sh
exec nginx -g 'daemon off;'
"""


@dataclass
class StandIn:
    """What an image holds: programs by the path they get, other files, and how it starts."""

    programs: dict[str, str]
    start: list[str]
    files: dict[str, bytes] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    what: str = ""


def standin(image: str, unpacked: Callable[[list[str]], Path]) -> StandIn | None:
    """The stand-in for an image; None for one that has none."""
    name = image.rsplit("/", 1)[-1].split(":")[0]
    if name == "etcd":
        return StandIn({"/usr/local/bin/etcd": find("etcd"), "/usr/local/bin/etcdctl": find("etcdctl")}, [], what="Debian's etcd")
    if name == "redis":
        programs = {f"/usr/local/bin/{program}": find(program) for program in ("redis-server", "redis-cli")}
        return StandIn(programs, [], folders=("data",), what="Debian's redis")
    if name == "nginx":
        programs = {"/usr/sbin/nginx": str(unpacked(["nginx"]) / "usr/sbin/nginx")}
        folders = ("var/lib/nginx", "var/log/nginx")
        return StandIn(programs, ["/start"], {"/start": NGINX, "/etc/nginx/mime.types": b"types {}\n"}, folders, "Debian's nginx")
    if name == "prometheus":
        programs = {"/bin/prometheus": str(unpacked(["prometheus"]) / "usr/bin/prometheus")}
        return StandIn(programs, ["/bin/prometheus"], folders=("prometheus",), what="Debian's prometheus")
    if name == "jaeger":
        nginx = str(unpacked(["nginx"]) / "usr/sbin/nginx")
        programs = {"/usr/local/bin/trunkline": str(stripped("trunkline")), "/usr/sbin/nginx": nginx}
        folders = ("var/lib/nginx", "var/log/nginx")
        what = "the page of trunkline up --trace-ui"
        return StandIn(programs, ["/start"], {"/start": JAEGER, **page()}, folders, what)
    return None


def page() -> dict[str, bytes]:
    """The files of the trace page where a program reads them that has them not in itself, which only release builds do."""
    if built("trunkline").parent.name == "release":
        return {}
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    files = [path for path in home.glob("registry/src/*/otlp-embedded-*/jaeger-ui/build/**/*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files}


def find(program: str) -> str:
    found = shutil.which(program)
    if not found:
        raise Trouble(f"the program {program} is missing: scripts/stores installs it")
    return found


def built(program: str) -> Path:
    """The newest build of a program of ours."""
    places = [ROOT / "target" / profile / program for profile in ("release", "debug")]
    places = [path for path in places if path.is_file()]
    if not places:
        raise Trouble(f"the program {program} is not built: cargo build --locked -p trunkline -p ledger-registry")
    return max(places, key=lambda path: path.stat().st_mtime)


def stripped(program: str) -> Path:
    """The same without what only a debugger reads."""
    source, copy = built(program), CACHE / "stripped" / program
    if not copy.is_file() or copy.stat().st_mtime < source.stat().st_mtime:
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not shutil.which("strip") or subprocess.run(["strip", "-o", str(copy), str(source)], check=False).returncode:
            shutil.copy(source, copy)
    return copy


def make(image: str, made: StandIn, busybox: str) -> None:
    """Imports a file system of these programs under the image's name."""
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        folder(tar, "tmp", 0o1777)
        for name in (*made.folders, "etc", "run"):
            folder(tar, name, 0o777 if name in made.folders else 0o755)
        text(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", 0o644)
        text(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
        text(tar, "etc/nsswitch.conf", b"hosts: files dns\n", 0o644)
        tar.add(busybox, "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        libraries: set[str] = set()
        for path, source in made.programs.items():
            # By the name it is asked for: a program may be a link to one that goes by its name.
            tar.add(os.path.realpath(source), path.lstrip("/"))
            libraries |= linked(source)
        for library in sorted(libraries):
            tar.add(os.path.realpath(library), library.lstrip("/"))
        for path, content in made.files.items():
            text(tar, path.lstrip("/"), content, 0o755)
    changes = ["ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", f'LABEL {LABEL}="{made.what}"']
    if made.start:
        changes.append("ENTRYPOINT [" + ", ".join(f'"{word}"' for word in made.start) + "]")
    argv = ["docker", "import", *[word for change in changes for word in ("--change", change)], "-", image]
    done = subprocess.run(argv, input=archive.getvalue(), capture_output=True, check=False)
    if done.returncode:
        raise Trouble(f"docker import {image} failed: {done.stderr.decode(errors='replace').strip()}")


def folder(tar: tarfile.TarFile, name: str, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    tar.addfile(info)


def text(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, BytesIO(content))


def linked(program: str) -> set[str]:
    """The libraries of a program, by the paths they are loaded from."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=False)
    missing = [line.split()[0] for line in done.stdout.splitlines() if "not found" in line]
    if missing:
        raise Trouble(f"{program} needs {', '.join(missing)}, which this machine does not have")
    return {word for line in done.stdout.splitlines() for word in line.split() if word.startswith("/")}


def present(image: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0


def label(image: str) -> str:
    """What a stand-in is; nothing for the real image."""
    asked = ["docker", "image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', image]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def can_pull(image: str) -> bool:
    try:
        done = subprocess.run(["docker", "pull", "--quiet", image], capture_output=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def obtainable(named: list[str]) -> bool:
    """Whether images are there or can be pulled."""
    return all(present(image) or can_pull(image) for image in named)


def provide(named: list[str], force: bool = False) -> dict[str, str]:
    """Sees to it that every image is there; the stand-ins among them, each with what it is."""
    standing = {image: what for image in named if (what := label(image))}
    missing = [image for image in named if not present(image)]
    # One answer is enough: where one image cannot be had, neither can the others.
    for image in [] if force else list(missing):
        say(f"pulling {image}")
        if not can_pull(image):
            say("images cannot be pulled here: stand-ins are built under the same names")
            break
        missing.remove(image)
    cache = CACHE / "debian"
    packages = lambda names: debian.unpacked(debian.codename(), names, cache)
    if missing:
        debian.run([str(ROOT / "scripts" / "stores")])
    for image in missing:
        plan = standin(image, packages)
        if plan is None:
            raise Trouble(f"{image} can neither be pulled nor be stood in for")
        make(image, plan, str(packages(["busybox-static"]) / "bin/busybox"))
        say(f"{image} is stood in for by {plan.what}")
        standing[image] = plan.what
    return standing


def build(version: str) -> None:
    """The images of this repository from programs that are built already, by the Dockerfile's last stages."""
    compile_programs()
    context = CACHE / "image"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir(parents=True)
    for program in PROGRAMS:
        stripped(program)
    debian.run([str(ROOT / "compose" / "image" / "rootfs"), str(CACHE / "stripped"), str(context)])
    os.environ["DOCKER_BUILDKIT"] = "1"
    common = ["build", "--quiet", "--file", str(ROOT / "Dockerfile"), "--build-arg", f"VERSION={version}"]
    common += ["--build-arg", "BINARY=prebuilt"]
    for target, image in (("trunkline", "trunkline"), ("demo", "trunkline-demo")):
        docker(*common, "--target", target, "--tag", f"{image}:{version}", str(context), timeout=600)
    shutil.rmtree(context)


def compile_programs() -> None:
    """A debug build of what there is no build of, or of all of it where there is no release build."""
    if all((ROOT / "target" / "release" / program).is_file() for program in PROGRAMS):
        return
    say("building trunkline and ledger-registry (target/debug)")
    debian.run([str(ROOT / "scripts" / "install"), "protoc=protobuf-compiler,libprotobuf-dev"])
    debian.run(["cargo", "build", "--quiet", "--locked", "--workspace", *[word for program in PROGRAMS for word in ("--bin", program)]], ROOT)
