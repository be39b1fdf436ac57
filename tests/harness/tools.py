"""Installs what tests are run with, pinned by lock files, into the ignored folder `.tools`."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"
_NPM_FILES = ("package.json", "package-lock.json", ".npmrc")


@contextmanager
def _locked(name: str):
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(argv: list[str], **options) -> None:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)} failed with {done.returncode}:\n{done.stdout}")


def _system(need: str) -> None:
    """Installs packages of the system where a command is missing: COMMAND=PACKAGE[,PACKAGE..]."""
    _run([str(ROOT / "scripts" / "install"), need])


def _fresh(stamp: Path, sources: list[Path], install) -> None:
    """Runs `install` unless it has been run for exactly these sources."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    if stamp.is_file() and stamp.read_text() == digest.hexdigest():
        return
    stamp.unlink(missing_ok=True)
    install()
    stamp.write_text(digest.hexdigest())


def npm(name: str, source: Path) -> Path:
    """Installs what the lock file in `source` names; returns the folder that holds `node_modules`."""
    folder = TOOLS / name
    files = [source / file for file in _NPM_FILES]

    def install() -> None:
        _system("npm=nodejs,npm")
        print(f"installing the packages of {source.relative_to(ROOT)}", flush=True)
        folder.mkdir(exist_ok=True)
        for file in files:
            shutil.copy(file, folder)
        _run(["npm", "ci", "--no-progress", "--loglevel=error"], cwd=folder)

    with _locked(name):
        _fresh(folder / "installed", files, install)
    return folder


def conformance() -> Path:
    """Installs the official conformance suite; returns its folder."""
    return npm("conformance", ROOT / "tests" / "conformance")


def node() -> Path:
    """Returns the Node that is installed beside the conformance suite."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return conformance() / "node_modules" / f"node-linux-{machine}" / "bin" / "node"


def python(source: Path) -> Path:
    """Installs what `requirements.txt` in `source` names into an environment of its own; returns its interpreter."""
    folder = TOOLS / "python"
    requirements = source / "requirements.txt"

    def install() -> None:
        print(f"installing the packages of {requirements.relative_to(ROOT)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        made = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, check=False)
        if made.returncode != 0:
            _system("a-command-that-never-exists=python3-venv")
            _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "pip"), "install", "--quiet", "--no-deps", "--requirement", str(requirements)])

    with _locked("python"):
        _fresh(folder / "installed", [requirements], install)
    return folder / "bin" / "python"
