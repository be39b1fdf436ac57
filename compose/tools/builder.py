"""The image that the Dockerfile compiles in: pulled, or where that cannot be done, made of this machine's compiler under the same name.

A stand-in is a small Debian of the same suite with a C compiler, and the Rust compiler of this machine where the official image has its own,
without what that does not have either: no other toolchain, no rustfmt, no clippy. How registries are reached (authorities, cargo's and apt's
settings) is this machine's.
"""

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import debian
import images
from docker import CACHE, ROOT, docker
from say import Trouble, say

# What the official image has of what is needed.
PACKAGES = ("gcc", "libc6-dev", "ca-certificates")
HOMES = {"RUSTUP_HOME": "/usr/local/rustup", "CARGO_HOME": "/usr/local/cargo"}
SEARCHED = f"{HOMES['CARGO_HOME']}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMANDS = ("cargo", "rustc")
# Of a toolchain: pages, sources and tools that nothing is compiled with.
SPARED = ("share", "libexec", "lib/rustlib/src", "bin")
# Whom Debian trusts.
TRUSTED = "/etc/ssl/certs/ca-certificates.crt"
# How packages are reached here.
REACHED = re.compile(r"^Acquire::(https?|Check-|Retries)\S* \".+\";$")


def named() -> str:
    """The builder's image, as the Dockerfile has it."""
    found = re.search(r"^ARG BUILDER=(\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise Trouble("the Dockerfile does not name the image that it compiles in: ARG BUILDER=")
    return found[1]


def provide(image: str) -> str:
    """Sees to it that the builder is there; what it is."""
    if images.present(image):
        return images.label(image) or "the official one"
    say(f"pulling {image}")
    if images.can_pull(image):
        return "the official one"
    say("it cannot be pulled here: a stand-in is made of this machine's compiler")
    return make(image)


def make(image: str) -> str:
    host, version = compiler()
    if wanted := re.search(r":(\d+\.\d+)", image):
        if not f"{version}.".startswith(f"{wanted[1]}."):
            raise Trouble(f"{image} is for Rust {wanted[1]}, this machine has {version}")
    what = f"Debian with this machine's Rust {version}"
    with tempfile.TemporaryDirectory(prefix="trunkline-builder-") as work:
        archive = Path(work) / "root.tar"
        base(archive)
        say(f"adding Rust {version}")
        with tarfile.open(archive, mode="a") as tar:
            toolchain(tar, f"{version}-{host}")
            reach(tar)
        settings = {**HOMES, "PATH": SEARCHED, "RUST_VERSION": version}
        changes = [f"ENV {name}={value}" for name, value in settings.items()] + [f'LABEL {images.LABEL}="{what}"']
        docker("import", *[word for change in changes for word in ("--change", change)], str(archive), image)
    return what


def compiler() -> tuple[str, str]:
    """For which machine it compiles, and its version."""
    said = debian.run(["rustc", "--version", "--verbose"], ROOT)
    known = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    return known["host"], known["release"]


def base(archive: Path) -> None:
    """A Debian with a C compiler, which is kept for the next time."""
    suite = debian.codename()
    kept = CACHE / "debian" / f"{suite}-builder.tar"
    if not kept.is_file():
        say(f"making a root of {suite} with {', '.join(PACKAGES)}, which takes a minute")
        debian.run([str(ROOT / "scripts" / "install"), "mmdebstrap=mmdebstrap"])
        kept.parent.mkdir(parents=True, exist_ok=True)
        listed, fresh = archive.with_name("debian.sources"), kept.with_suffix(".new.tar")
        listed.write_text(debian.sources(suite), encoding="utf-8")
        options = [line for line in debian.run(["apt-config", "dump"]).splitlines() if REACHED.match(line)]
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        # No archive has a file twice: it gets the one of this machine.
        argv += [f'--customize-hook=rm "$1"{TRUSTED}', *[f"--aptopt={option}" for option in options]]
        debian.run([*argv, suite, str(fresh), str(listed)])
        fresh.rename(kept)
    shutil.copy(kept, archive)


def toolchain(tar: tarfile.TarFile, name: str) -> None:
    """The compiler at the place and by the name it has in the official image, and whoever chooses among toolchains there."""
    root = Path(debian.run(["rustc", "--print", "sysroot"], ROOT).strip())
    inside = f"{HOMES['RUSTUP_HOME']}/toolchains/{name}".lstrip("/")
    spared = {f"{inside}/{part}" for part in SPARED}
    tar.add(root, inside, filter=lambda info: None if info.name in spared else info)
    for command in COMMANDS:
        tar.add(root / "bin" / command, f"{inside}/bin/{command}")
    chooser = shutil.which("rustup")
    home = HOMES["CARGO_HOME"].lstrip("/")
    if chooser:
        tar.add(os.path.realpath(chooser), f"{home}/bin/rustup")
        chosen = f'version = "12"\ndefault_toolchain = "{name}"\nprofile = "minimal"\n'
        images.text(tar, f"{HOMES['RUSTUP_HOME']}/settings.toml".lstrip("/"), chosen.encode(), 0o644)
    for command in COMMANDS:
        link = tarfile.TarInfo(f"{home}/bin/{command}")
        link.type, link.linkname = tarfile.SYMTYPE, "rustup" if chooser else f"/{inside}/bin/{command}"
        tar.addfile(link)


def reach(tar: tarfile.TarFile) -> None:
    """Whom this machine trusts, and where it gets crates."""
    images.text(tar, TRUSTED.lstrip("/"), Path(TRUSTED).read_bytes(), 0o644)
    for path in Path("/usr/local/share/ca-certificates").glob("*.crt"):
        images.text(tar, str(path).lstrip("/"), path.read_bytes(), 0o644)
    settings = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "config.toml"
    if settings.is_file():
        images.text(tar, f"{HOMES['CARGO_HOME']}/config.toml".lstrip("/"), settings.read_bytes(), 0o644)


def forget(image: str) -> None:
    """Removes a stand-in: nobody else shall take it for the real one."""
    if images.label(image):
        subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True, check=False)
