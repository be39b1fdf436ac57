"""Packages of another Debian suite, unpacked beside the system: nothing of the machine is changed.

The machine's own sources say where packages come from; only the suite in them is replaced. What came is kept in a cache.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from say import Trouble, say

ARCHITECTURE = ["dpkg", "--print-architecture"]


def unpacked(suite: str, packages: list[str], cache: Path) -> Path:
    """The directory with the files of these packages, as a file system of their own."""
    root = cache / f"{suite}-{'-'.join(packages)}"
    if (root / ".complete").is_file():
        return root
    if not shutil.which("apt-get"):
        raise Trouble(f"{', '.join(packages)} cannot be fetched: this machine has no apt-get; install them by hand")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    say(f"fetching {', '.join(packages)} ({suite})")
    for archive in download(suite, packages, cache / f"{suite}.apt"):
        run(["dpkg-deb", "-x", str(archive), str(root)])
        archive.unlink()
    (root / ".complete").touch()
    return root


def download(suite: str, packages: list[str], work: Path) -> list[Path]:
    into = work / "debs"
    for folder in (work / "lists" / "partial", work / "cache" / "archives" / "partial", into):
        folder.mkdir(parents=True, exist_ok=True)
    if suite == codename():
        options: list[str] = []
        if not any(Path("/var/lib/apt/lists").glob("*Packages*")):
            run([*privileged(), "apt-get", "-o", "DPkg::Lock::Timeout=300", "update", "-qq"])
    else:
        listed = work / "alt.sources"
        listed.write_text(sources(suite), encoding="utf-8")
        options = ["-o", f"Dir::Etc::sourcelist={listed}", "-o", "Dir::Etc::sourceparts=/nonexistent"]
        options += ["-o", f"Dir::State::lists={work / 'lists'}", "-o", f"Dir::Cache={work / 'cache'}"]
        # Whoever fetches may not be the user that apt drops its rights to.
        options += ["-o", "APT::Sandbox::User=", "-o", "Acquire::Languages=none"]
        run(["apt-get", *options, "update", "-qq"])
    before = set(into.glob("*.deb"))
    run(["apt-get", *options, "download", "-qq", *packages], into)
    return sorted(set(into.glob("*.deb")) - before) or sorted(into.glob("*.deb"))


def sources(suite: str) -> str:
    """The machine's first entry for its own suite, with the suite replaced."""
    own = codename()
    parts = Path("/etc/apt/sources.list.d")
    for path in sorted(parts.glob("*.sources")):
        for stanza in path.read_text(encoding="utf-8").split("\n\n"):
            lines = [line for line in stanza.splitlines() if line and not line.startswith("#")]
            suites = next((line.split(":", 1)[1].split() for line in lines if line.startswith("Suites:")), [])
            if own in suites:
                return "\n".join(f"Suites: {suite}" if line.startswith("Suites:") else line for line in lines) + "\n"
    for path in [Path("/etc/apt/sources.list"), *sorted(parts.glob("*.list"))]:
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            found = re.match(rf"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+{own}\s", line)
            if found:
                keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
                return f"Types: deb\nURIs: {found[1]}\nSuites: {suite}\nComponents: main\nSigned-By: {keyring}\n"
    raise Trouble(f"no entry for {own} in /etc/apt: packages of {suite} cannot be fetched")


def codename() -> str:
    said = Path("/etc/os-release").read_text(encoding="utf-8") if Path("/etc/os-release").is_file() else ""
    found = re.search(r"^VERSION_CODENAME=(\S+)$", said, re.MULTILINE)
    return found[1] if found else ""


def privileged() -> list[str]:
    return [] if os.getuid() == 0 else ["sudo"]


def run(command: list[str], where: Path | None = None) -> str:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(f"{' '.join(command[:2])} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout
