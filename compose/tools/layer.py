"""The layer of the image that holds compiled dependencies is used again until a manifest or the lock file changes.

Where images cannot be pulled nobody builds that layer, so what decides about it is looked at: what `compose/image/plan` makes of the sources.
"""

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from docker import ROOT

PLAN = Path("compose/image/plan")
# A crate whose sources and manifest are changed.
CRATE = Path("services/gateway")


class Wrong(Exception):
    """What is wrong with the plan."""


class Sources:
    """A copy of what is in version control, as the builder's image gets it."""

    def __init__(self, work: Path):
        self.work, self.root, self.plans = work, work / "sources", 0
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.root / name)

    def add(self, name: Path, text: str) -> str:
        """Adds to the end of a file, which may be new; what it was."""
        path = self.root / name
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        path.write_text(before + text, encoding="utf-8")
        return before

    def plan(self) -> Path:
        self.plans += 1
        made = self.work / f"plan-{self.plans}"
        subprocess.run([f"./{PLAN}", str(made)], cwd=self.root, check=True)
        return made


def digest(folder: Path) -> str:
    """The same files give the same layer."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(f"{path.relative_to(folder)} {path.stat().st_mode} {path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()


def targets(folder: Path) -> set[tuple[str, str, str]]:
    """What cargo would build there, without asking anybody."""
    argv = ["cargo", "metadata", "--locked", "--offline", "--format-version", "1"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Wrong(f"cargo cannot read it: {done.stderr.strip()[-600:]}")
    known = json.loads(done.stdout)
    own = [package for package in known["packages"] if package["id"] in set(known["workspace_members"])]
    if absent := [target["src_path"] for package in own for target in package["targets"] if not Path(target["src_path"]).is_file()]:
        raise Wrong(f"there is no {Path(absent[0]).relative_to(folder)}, which a manifest names")
    return {(package["name"], "+".join(target["kind"]), target["name"]) for package in own for target in package["targets"]}


def look(sources: Sources) -> str:
    """Makes the plan again after changes; what it holds."""
    first = sources.plan()
    whole = digest(first)
    planned, there = targets(first), targets(sources.root)
    if missing := {target for target in there ^ planned if "test" not in target[1]}:
        raise Wrong(f"has other targets than the sources: {sorted(missing)[:5]}")
    before = sources.add(CRATE / "src/lib.rs", "\nfn added() {}\n")
    sources.add(CRATE / "src/added.rs", "//! New.\n")
    if digest(sources.plan()) != whole:
        raise Wrong("another body of a function makes another layer")
    (sources.root / CRATE / "src/lib.rs").write_text(before, encoding="utf-8")
    (sources.root / CRATE / "src/added.rs").unlink()
    for name in (CRATE / "Cargo.toml", Path("Cargo.toml"), Path("Cargo.lock")):
        before = sources.add(name, "# Changed.\n")
        if digest(sources.plan()) == whole:
            raise Wrong(f"another {name} makes no other layer")
        (sources.root / name).write_text(before, encoding="utf-8")
    return f"{len(planned)} targets of {len({target[0] for target in planned})} packages"


# What a plan could be, and the word that says what is wrong with it.
PLANTED = (
    ("a plan with the sources in it", "another body of a function", "echo 'fn main() {}' >", 'cp "$file" '),
    ("a plan without the lock file", "cargo cannot read it", "-o -name Cargo.lock ", ""),
    ("a plan without programs", "there is no ", "*/src/main.rs | ", ""),
    ("a plan without libraries", "cargo cannot read it", "*/src/lib.rs | ", ""),
    ("a plan of names alone", "another services/gateway/Cargo.toml makes no other layer", 'cp "$file" "$plan/$file"', 'cp "$root/$file" "$plan/$file"'),
)


def problems(planted: tuple[str, str] | None = None) -> tuple[str, list[str]]:
    """What the plan holds, and what is wrong with it; or with one where a text was replaced."""
    with tempfile.TemporaryDirectory(prefix="trunkline-layer-") as work:
        sources = Sources(Path(work))
        if planted:
            path = sources.root / PLAN
            text = path.read_text(encoding="utf-8")
            assert planted[0] in text, planted
            path.write_text(text.replace(*planted).replace("$root", str(ROOT)), encoding="utf-8")
        try:
            return look(sources), []
        except Wrong as wrong:
            return "", [str(wrong)]
