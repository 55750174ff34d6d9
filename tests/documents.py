"""README.md and the pages of docs/: their blocks of commands.

A fenced ``sh`` or ``console`` block is preceded by ``<!-- test -->``, ``<!-- test: extra -->`` or
``<!-- no test: reason -->``; CONTRIBUTING says what each is for. In a ``console`` block the lines after ``$ `` are
commands and the rest is what they print.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

#: A line that installs the programs in a clone. The pins keep an install small and what is tested.
INSTALL = re.compile(r"(?:\S*/)?pip install (?:-c|--constraint) constraints\.txt (?:\.|'\.\[(?P<extras>[a-z,]+)\]')")
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>(?:no )?test)(?:: (?P<note>[^\n]+?))? -->\n+)?^```(?P<kind>sh|console)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """``note``: of a test the extra that it needs, otherwise the reason why it is not run."""

    page: str
    line: int
    mark: str | None
    note: str | None
    commands: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def tested(self) -> bool:
        return self.mark == "test"

    def installs(self) -> list[str]:
        """The extras that its lines install, "" for none."""
        return [found["extras"] or "" for found in INSTALL.finditer(self.commands)]


def blocks(page: str, text: str) -> list[Block]:
    found = []
    for match in _BLOCK.finditer(text):
        commands = match["body"] if match["kind"] == "sh" else _typed(match["body"])
        line = text.count("\n", 0, match.start("body")) + 1
        found.append(Block(page, line, match["mark"], match["note"], commands))
    return found


def read(page: Path) -> list[Block]:
    return blocks(str(page.relative_to(ROOT)), page.read_text("utf-8"))


def _typed(body: str) -> str:
    """The commands of a ``console`` block, with the lines that a closing backslash continues."""
    commands, goes_on = [], False
    for line in body.splitlines():
        if goes_on or line.startswith("$ "):
            commands.append(line if goes_on else line[2:])
            goes_on = line.endswith("\\")
    return "\n".join(commands)
