"""Private words of earlier versions are gone from identifiers, help texts and documents."""

from __future__ import annotations

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
#: Public names that other rooms use and that are renamed when the rooms are merged. Empty this set then.
RENAMED_LATER: set[str] = set()
#: Phrases that a reader has to resolve.
PHRASES = ("so many", "came of it", "caches between the layers", "caches between layers", "is said of", "is told why")
ROOMS = ("shared", "tests/shared", "edge_agent", "cloud_server", "models", "simulator", "benchmarks", "tests")
#: Rooms whose words are still to be replaced. Remove a room when it passes; add none.
PENDING: frozenset[str] = frozenset()
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
#: History, which names things by the names of its day.
HISTORY = ("log.md", "decisions.md")


def rooms(*names: str) -> list[Any]:
    pending = pytest.mark.xfail(reason="words still to be replaced", strict=False)
    return [pytest.param(name, marks=[pending] if name in PENDING else []) for name in names]


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


@pytest.mark.parametrize("room", rooms(*ROOMS))
def test_identifiers_are_plain(room: str) -> None:
    exempt = RENAMED_LATER | ({"given"} if room.startswith("tests") else set())  # hypothesis.given
    found = {
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in python_files(room)
        for line, name in identifiers(path)
        if name not in exempt and IDENTIFIERS & set(split(name))
    }
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize("room", rooms(*ROOMS))
def test_comments_and_texts_of_code_are_plain(room: str) -> None:
    # ``REPLACED`` maps settings of earlier versions to their successors.
    texts = {
        path: re.sub(r"REPLACED.*?\}$", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for path in python_files(room)
    }
    found = [
        f"{path.relative_to(ROOT)}: {', '.join(sorted(words))}"
        for path, text in texts.items()
        if (words := phrases(text))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("room", rooms("help"))
def test_help_is_plain(room: str) -> None:  # noqa: ARG001
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


@pytest.mark.parametrize("room", rooms("docs"))
def test_documents_are_plain(room: str) -> None:  # noqa: ARG001
    found = [
        f"{path.relative_to(ROOT)}: {', '.join(sorted(words))}"
        for path in DOCUMENTS
        if path.name not in HISTORY and (words := phrases(path.read_text("utf-8")))
    ]
    assert not found, "\n".join(found)


def test_names_are_split_into_words() -> None:
    assert split("_MAX_CURIOSITY") == ["max", "curiosity"]
    assert split("LateReply_s2") == ["late", "reply", "s"]
    assert split("onHTTPRequest") == ["on", "http", "request"]
    assert phrases("What came of\nit: so  many strangers.") == {"came of it", "so many", "strangers"}
