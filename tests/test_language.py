"""Private words of earlier versions are gone from identifiers, help texts and documents."""

from __future__ import annotations

import ast
import importlib
import io
import keyword
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.test_walls import COMMANDS, ROOT, subcommands

#: Words that are no field's term and no ordinary English in this project: banned from identifiers, help and documents.
NOWHERE = set(
    """
    aside candour curiosity fortune forgo habits hopeless insist insistence insistent keeper lane layered lesson lessons
    lighten mending patience puller refresher sighting sightings specialise specialised specialiser specialises stranger
    strangers taught tempering urged wander whoever yardstick
    """.split()  # noqa: SIM905
)
#: Ordinary words that say nothing as a name: banned from identifiers alone.
IDENTIFIERS = NOWHERE | set(
    """
    bare doubt doubtful errs figures film films given guess guessed heard ill kept kit luck merit mind ours passed saw
    seen said spared teach told trouble voice worth
    """.split()  # noqa: SIM905
)
#: Phrases that a reader has to resolve.
PHRASES = ("so many", "came of it", "caches between the layers", "caches between layers", "is said of", "is told why")
ROOMS = ("shared", "tests/shared", "edge_agent", "cloud_server", "models", "simulator", "benchmarks", "tests")
#: All documents but the history, which uses the names of its day.
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path != ROOT / "docs/log.md"),
]


def python_files(room: str) -> list[Path]:
    """The modules of a room, without this one, which has to name the words."""
    return [path for path in sorted((ROOT / room).rglob("*.py")) if path != Path(__file__).resolve()]


def split(identifier: str) -> list[str]:
    """The words of a name: ``_LateReply_s2`` has late, reply and s."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)]


def identifiers(path: Path) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            yield token.start[0], token.string


def phrases(text: str) -> set[str]:
    """The banned words and phrases of a text in English."""
    plain = " ".join(text.lower().split())
    return NOWHERE & set(re.findall(r"[a-z]+", plain)) | {phrase for phrase in PHRASES if phrase in plain}


def without_replaced(source: str) -> str:
    """A module without its assignments to ``REPLACED`` and ``ALIASES``, which name settings of earlier versions."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") in ("REPLACED", "ALIASES"):
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(lines)


@pytest.mark.parametrize("room", ROOMS)
def test_identifiers_are_plain(room: str) -> None:
    exempt = {"given"} if room.startswith("tests") else set()  # hypothesis.given
    found = {
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in python_files(room)
        for line, name in identifiers(path)
        if name not in exempt and IDENTIFIERS & set(split(name))
    }
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize("room", ROOMS)
def test_comments_and_texts_of_code_are_plain(room: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {', '.join(sorted(words))}"
        for path in python_files(room)
        if (words := phrases(without_replaced(path.read_text("utf-8"))))
    ]
    assert not found, "\n".join(found)


def test_help_is_plain() -> None:
    found = []
    for package, program in COMMANDS.items():
        module = importlib.import_module(f"{package}.cli")
        app = next(value for value in vars(module).values() if isinstance(value, typer.Typer))
        group: Any = typer.main.get_command(app)
        for name in subcommands(group):
            command = group
            for part in name:
                command = command.commands[part]
            texts = [command.help, *(getattr(option, "help", "") for option in command.params)]
            if words := phrases("\n".join(filter(None, texts))):
                found.append(f"{program} {' '.join(name)}: {', '.join(sorted(words))}")
    assert not found, "\n".join(found)


def test_documents_are_plain() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {', '.join(sorted(words))}"
        for path in DOCUMENTS
        if (words := phrases(path.read_text("utf-8")))
    ]
    assert ROOT / "docs/decisions/README.md" in DOCUMENTS
    assert not found, "\n".join(found)


def test_only_the_table_of_replaced_settings_is_exempt() -> None:
    source = """
# REPLACED names a stranger {here}
class Settings:
    REPLACED: ClassVar = {
        "lane": "use {link}",
    }
    #: A lesson.
    other = {}
"""
    assert phrases(without_replaced(source)) == {"stranger", "lesson"}


def test_names_are_split_into_words() -> None:
    assert split("_MAX_CURIOSITY") == ["max", "curiosity"]
    assert split("LateReply_s2") == ["late", "reply", "s"]
    assert split("onHTTPRequest") == ["on", "http", "request"]
    assert phrases("What came of\nit: so  many strangers.") == {"came of it", "so many", "strangers"}
