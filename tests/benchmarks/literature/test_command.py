"""The command of the rows, and the page that reports them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks.literature import __main__ as command
from benchmarks.literature.row import Inputs, Measurement, Row
from cachenet.shared.command.errors import UserError

PAGE = Path(__file__).parents[3] / "docs/literature.md"


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, row: Row, *flags: str) -> None:
    monkeypatch.setattr(command, "row", lambda _: row)
    monkeypatch.setattr(sys, "argv", ["literature", "--row", "compression", "--work", str(tmp_path), *flags])
    command.main()


def test_a_row_prints_what_was_published_and_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(inputs: Inputs) -> Measurement:
        assert inputs.work.is_dir()
        return Measurement(1.5, "times faster", False, {"curve": [1, 2]})

    run(monkeypatch, tmp_path, Row("2 times", measure), "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed == {
        "row": "compression",
        "published": "2 times",
        "measured": 1.5,
        "unit": "times faster",
        "pays": False,
        "smoke": False,
        "curve": [1, 2],
    }


def test_an_input_that_is_missing_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(inputs: Inputs) -> Measurement:
        raise UserError(f"{inputs.data} is not there")

    with pytest.raises(SystemExit) as end:
        run(monkeypatch, tmp_path, Row("2 times", measure), "--data", "nowhere")
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines() == ["benchmarks.literature: nowhere is not there"]


@pytest.mark.parametrize("name", command.ROWS)
def test_each_row_is_there_and_on_the_page(name: str) -> None:
    assert command.row(name).published
    assert re.search(rf"^\| .*`{name}`", PAGE.read_text(), re.MULTILINE)
