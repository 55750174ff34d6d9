"""Streams as files: the same bytes from the same seed, a contact sheet, and one line for an error."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner, Result

from cachenet.shared.media import recording
from cachenet.simulator.cli import app
from cachenet.simulator.report.contact_sheet import contact_sheet


def run(*given: object) -> Result:
    return CliRunner().invoke(app, ["stream", *map(str, given)])


def digest(directory: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


@pytest.mark.parametrize("name", ["camera", "held", "dwell"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, name: str) -> None:
    for out, seed in (("a", 7), ("b", 7), ("c", 8)):
        done = run(name, "--frames", 12, "--seed", seed, "--out", tmp_path / out)
        assert done.exit_code == 0, done.output
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
    assert recording.read(tmp_path / "a").frames == 12


def test_a_preview_shows_the_frames(tmp_path: Path) -> None:
    done = run("dwell", "--frames", 100, "--out", tmp_path / "s", "--preview", tmp_path / "sheet.png")
    assert done.exit_code == 0, done.output
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    first = recording.picture(tmp_path / "s", recording.read(tmp_path / "s"), 0)
    back = cv2.resize(sheet[8:128, 8:128], (32, 32), interpolation=cv2.INTER_AREA)
    assert cv2.absdiff(back, first).mean() < 5 < cv2.absdiff(back, first[::-1]).mean()
    assert sheet.shape[1] > 10 * 120


def test_a_short_stream_has_a_smaller_sheet(tmp_path: Path) -> None:
    run("held", "--frames", 3, "--out", tmp_path / "s")
    assert contact_sheet(tmp_path / "s").shape[1] < 4 * 128


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("nope", "--out", "{place}/new"), "no stream 'nope'"),
        (("held", "--out", "{place}/full"), "is not empty"),
        (("held", "--out", "{place}/new", "--images", "cats"), "neither sample nor test"),
        (("held", "--out", "{place}/full/mine.txt"), "mine.txt: "),
    ],
)
def test_an_error_is_one_line(tmp_path: Path, given: tuple[str, ...], told: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("dear")
    done = run(*(word.replace("{place}", str(tmp_path)) for word in given))
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert told in done.stderr
    assert (tmp_path / "full" / "mine.txt").read_text() == "dear"
