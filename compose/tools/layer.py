"""The layer of the image that holds compiled dependencies is used again until a manifest or the lock file changes.

Where images cannot be pulled nobody builds that layer, so what decides about it is looked at: what `compose/image/plan` makes of the sources.
"""

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from docker import ROOT

PLAN = Path("compose/image/plan")
IGNORED = Path(".dockerignore")
# A crate whose sources and manifest are changed.
CRATE = Path("services/gateway")
EMBEDDED = re.compile(r'\binclude_(str|bytes)!\("([^"$]+)"\)')


class Wrong(Exception):
    """What is wrong with the plan."""


class Sources:
    """A copy of what is in version control, as the builder's image gets it."""

    def __init__(self, work: Path, planted: tuple[Path, str, str] | None = None):
        self.work, self.root, self.plans = work, work / "sources", 0
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
        edited = self.edited(*planted) if planted else {}
        rules = edited.get(IGNORED, (ROOT / IGNORED).read_text(encoding="utf-8")).splitlines()
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file() and is_sent(PurePosixPath(name), rules):
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.root / name)
        for name, text in edited.items():
            (self.root / name).write_text(text, encoding="utf-8")

    def edited(self, name: Path, before: str, after: str) -> dict[Path, str]:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert before in text, (name, before)
        return {name: text.replace(before, after)}

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


def is_sent(name: PurePosixPath, rules: list[str]) -> bool:
    """Whether the builder gets a file: the last rule of .dockerignore that meets it, or a folder it is in, decides."""
    sent = True
    for rule in rules:
        wanted = rule.removeprefix("!")
        if not wanted or wanted.startswith("#"):
            continue
        parts = [name, *name.parents][:-1]
        met = [part.name for part in parts] if wanted.startswith("**/") else [str(part) for part in parts]
        if any(fnmatchcase(part, wanted.removeprefix("**/")) for part in met):
            sent = rule.startswith("!")
    return sent


def embedded(folder: Path) -> None:
    """What programs hold of other files is there."""
    for path in sorted(folder.rglob("*.rs")):
        for _macro, name in EMBEDDED.findall(path.read_text(encoding="utf-8")):
            if not (path.parent / name).is_file() and "tests" not in path.parts:
                raise Wrong(f"{path.relative_to(folder)} holds {name}, which the builder does not get")


def digest(folder: Path) -> str:
    """The same files give the same layer."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(f"{path.relative_to(folder)} {path.stat().st_mode} {path.stat().st_size}\n".encode() + path.read_bytes())
    return found.hexdigest()


def targets(folder: Path) -> set[tuple[str, str, str]]:
    """What cargo would build there. Crates of other systems, which nothing here has needed yet, are fetched for that."""
    argv = ["cargo", "metadata", "--locked", "--format-version", "1"]
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
    embedded(sources.root)
    if (sources.root / "rust-toolchain.toml").exists():
        raise Wrong("the builder's image gets a file for which it fetches another compiler than its own")
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


# What could be wrong: the word that says it, the file, what stands there and what could.
PLANTED = (
    ("a plan with the sources in it", "another body of a function", PLAN, "echo 'fn main() {}' >", 'cp "$file" '),
    ("a plan without the lock file", "cargo cannot read it", PLAN, "-o -name Cargo.lock ", ""),
    ("a plan without programs", "there is no ", PLAN, "*/src/main.rs | ", ""),
    ("a plan without libraries", "cargo cannot read it", PLAN, "*/src/lib.rs | ", ""),
    ("a plan of names alone", "another services/gateway/Cargo.toml makes no other layer", PLAN, 'cp "$file" "$plan/$file"', f'cp "{ROOT}/$file" "$plan/$file"'),
    ("sources that the builder does not get", "cargo cannot read it", IGNORED, "!libs\n", ""),
    ("a compiler that is not the builder's", "another compiler", IGNORED, "!libs\n", "!libs\n!rust-toolchain.toml\n"),
    ("scripts of Redis that the builder does not get", "which the builder does not get", IGNORED, "**/target\n", "**/target\n**/*.lua\n"),
)


def problems(planted: tuple[Path, str, str] | None = None) -> tuple[str, list[str]]:
    """What the plan holds, and what is wrong with it; or with sources in one of whose files a text was replaced."""
    with tempfile.TemporaryDirectory(prefix="trunkline-layer-") as work:
        try:
            return look(Sources(Path(work), planted)), []
        except Wrong as wrong:
            return "", [str(wrong)]
