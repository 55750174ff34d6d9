"""README.md and the pages of docs/: their command blocks, prose, links and paths.

A fenced ``sh`` or ``console`` block follows a mark: ``<!-- test -->``, ``<!-- test: extra -->`` or
``<!-- no test: reason -->``. CONTRIBUTING.md explains the marks. In a ``console`` block the lines after ``$ `` are
commands, the others their output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: Pages whose command blocks are tested.
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
#: Pages whose prose, links and paths are tested. The changelog keeps the paths of earlier versions.
PROSE_PAGES = (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md")

#: A line that installs the programs in a clone. The pins keep an install small and equal to the tested one.
INSTALL = re.compile(r"(?:\S*/)?pip install (?:-c|--constraint) constraints\.txt (?:\.|'\.\[(?P<extras>[a-z,]+)\]')")
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>(?:no )?test)(?:: (?P<note>[^\n]+?))? -->\n+)?^```(?P<kind>sh|console)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_CODE_SPAN = re.compile(r"`[^`]+`")


@dataclass(frozen=True)
class Block:
    """A fenced block of commands.

    Attributes:
        page: Path of the page, relative to the repository.
        line: Number of the block's first line.
        mark: ``test``, ``no test`` or None.
        note: The extra that a test needs, or the reason why there is no test.
        commands: The commands, as a script for bash.
    """

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
        """The extras that the block installs; "" stands for the base install."""
        return [match["extras"] or "" for match in INSTALL.finditer(self.commands)]


def blocks(page: str, text: str) -> list[Block]:
    found = []
    for match in _BLOCK.finditer(text):
        commands = match["body"] if match["kind"] == "sh" else _console_commands(match["body"])
        line = text.count("\n", 0, match.start("body")) + 1
        found.append(Block(page, line, match["mark"], match["note"], commands))
    return found


def read(page: Path) -> list[Block]:
    return blocks(str(page.relative_to(ROOT)), page.read_text("utf-8"))


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line outside fenced blocks, tables and comments, with links reduced to their text."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.lstrip().startswith(("|", "<!--", "![")):
            yield number, _LINK.sub(lambda match: match["text"], line)


def links(text: str) -> list[str]:
    """Targets of links and pictures, outside fenced blocks."""
    return [match["target"] for line in _outside_fences(text) for match in _LINK.finditer(line)]


def code_spans(text: str) -> list[str]:
    """Contents of inline code, outside fenced blocks."""
    return [match[0].strip("`") for line in _outside_fences(text) for match in _CODE_SPAN.finditer(line)]


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = [line.lstrip("#").strip() for line in _outside_fences(text) if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _outside_fences(text: str) -> list[str]:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL).splitlines()


def _console_commands(body: str) -> str:
    """The commands of a ``console`` block, with their continuation lines."""
    commands, continues = [], False
    for line in body.splitlines():
        if continues or line.startswith("$ "):
            commands.append(line if continues else line[2:])
            continues = line.endswith("\\")
    return "\n".join(commands)
