"""The README's commands, run as a reader would run them.

A fenced ``sh`` or ``console`` block is preceded by ``<!-- test -->`` if its commands are run here, or by
``<!-- no test: reason -->``; a block with neither fails, so that none is forgotten. In a ``console`` block the lines
after ``$ `` are commands and the rest is what they print, which is not compared. CONTRIBUTING says the same.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
LIMIT_S = 300

_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>(?:no )?test)(?:: (?P<reason>[^\n]+?))? -->\n+)?"
    r"^```(?P<kind>sh|console)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    line: int
    mark: str | None
    reason: str | None
    commands: str

    def __str__(self) -> str:
        return f"line {self.line}"


def blocks(text: str) -> list[Block]:
    found = []
    for match in _BLOCK.finditer(text):
        commands = match["body"] if match["kind"] == "sh" else _typed(match["body"])
        line = text.count("\n", 0, match.start("body")) + 1
        found.append(Block(line, match["mark"], match["reason"], commands))
    return found


def _typed(body: str) -> str:
    """The commands of a ``console`` block, with the lines that a closing backslash continues."""
    commands, goes_on = [], False
    for line in body.splitlines():
        if goes_on or line.startswith("$ "):
            commands.append(line if goes_on else line[2:])
            goes_on = line.endswith("\\")
    return "\n".join(commands)


BLOCKS = blocks(README.read_text("utf-8")) if README.exists() else []
TESTED = [block for block in BLOCKS if block.mark == "test"]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A directory that looks like the project's root, where what commands write harms nothing."""
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name not in {"build", "dist"}:
            (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


@pytest.mark.parametrize("block", TESTED, ids=str)
def test_the_commands_run(block: Block, workplace: Path) -> None:
    scripts = sysconfig.get_path("scripts")
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        # A home of its own, but not a cache: what was downloaded once is not downloaded again.
        "HOME": str(workplace),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.commands],
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{block.commands}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.skipif(not README.exists(), reason="README.md is not written yet")
def test_every_block_is_tested_or_says_why_not() -> None:
    assert TESTED
    for block in BLOCKS:
        assert block.mark == "test" or (block.mark == "no test" and block.reason), f"README.md {block} has no mark"


def test_blocks_are_read_as_meant() -> None:
    text = """# Title
<!-- test -->
```console
$ echo one \\
    two
one two
$ true
```

<!-- no test: takes an hour -->

```sh
make demo   # all of it
```

```sh
unmarked
```

```python
print("not a command")
```
"""
    assert blocks(text) == [
        Block(4, "test", None, "echo one \\\n    two\ntrue"),
        Block(13, "no test", "takes an hour", "make demo   # all of it\n"),
        Block(17, None, None, "unmarked\n"),
    ]
