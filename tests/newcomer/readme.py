"""What pages of the manual tell one to do, taken from the pages themselves.

A block's label is what follows its language: ```sh start. Labels are not shown when the page is. The output a block is
followed by, ```text LABEL, is part of it; `..` in it stands for anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)(?: ([\w-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"\s+# .*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    language: str
    label: str
    text: str

    def commands(self) -> list[str]:
        """Its commands without the remarks behind them; a line that ends in a backslash goes on."""
        joined = _COMMENT.sub("", self.text).replace("\\\n", " ")
        return [line for line in re.split(r"\n(?![ \t])", joined.strip()) if line and not line.startswith("#")]


class Readme:
    """The labelled blocks of some pages, each of which has to be used."""

    def __init__(self, *pages: Path):
        text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
        self._name = pages[0].name if len(pages) == 1 else f"{pages[0].name} with what it leads to"
        self._blocks = [Block(language, label, body) for language, label, body in _BLOCK.findall(text)]
        self._used: set[Block] = set()

    def block(self, language: str, label: str) -> Block:
        found = [block for block in self._blocks if (block.language, block.label) == (language, label)]
        assert len(found) == 1, f"{self._name} has {len(found)} blocks labelled `{language} {label}`, not 1"
        self._used.add(found[0])
        return found[0]

    def expects(self, label: str, said: str) -> None:
        """Compares what a command has said with what the README says it says, line by line."""
        end = 0
        for line in self.block("text", label).text.strip().splitlines():
            pattern = ".*?".join(re.escape(part) for part in line.strip().split(".."))
            found = re.compile(pattern).search(said, end)
            assert found, f"{self._name} promises {line!r}, which is not what was said:\n{said}"
            end = found.end()

    def unused(self) -> list[str]:
        """Blocks of commands, settings and output that nothing has used."""
        checked = [block for block in self._blocks if block not in self._used]
        return [f"{block.language} {block.label or 'without a label'}: {block.text[:60]!r}" for block in checked]
