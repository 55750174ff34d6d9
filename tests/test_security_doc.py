"""docs/security.md: every row of the threat model names tests, and each of them exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.documents import ROOT

PAGE = ROOT / "docs/security.md"
ATTACKERS = (
    *("rogue device", "rogue broker", "rogue server", "rogue publisher of updates", "stolen device"),
    *("malicious picture", "malicious model", "replay", "supply chain", "denial of service"),
)


def rows(text: str) -> dict[str, list[str]]:
    """Cells of each row of the page's table after the first, by the first."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {name.partition(",")[0]: cells for name, *cells in lines[1:]}


@cache
def functions(file: Path) -> set[str]:
    """Names of the test functions of a module."""
    return {node.name for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}


def missing(cell: str) -> list[str]:
    """The tests of a cell, as pytest's node ids or as files, that do not exist."""
    named = re.findall(r"`([^`]+)`", cell)
    return [
        one
        for one in named
        if not (file := ROOT / one.partition("::")[0]).is_file()
        or ("::" in one and one.partition("::")[2] not in functions(file))
    ]


def test_the_threat_model_has_a_row_for_every_attacker() -> None:
    assert tuple(rows(PAGE.read_text("utf-8"))) == ATTACKERS


@pytest.mark.parametrize("attacker", ATTACKERS)
def test_every_row_names_tests_that_exist(attacker: str) -> None:
    *texts, tests = rows(PAGE.read_text("utf-8"))[attacker]
    assert len(texts) == 3 and all(texts)
    assert "`tests/" in tests
    assert missing(tests) == []


def test_a_test_that_does_not_exist_is_found() -> None:
    own = "tests/test_security_doc.py"
    assert missing(f"`{own}` `{own}::test_a_test_that_does_not_exist_is_found`") == []
    absent = [f"{own}::test_of_nothing", "tests/absent.py", "tests/absent.py::test_of_nothing"]
    assert missing(" ".join(f"`{one}`" for one in absent)) == absent
