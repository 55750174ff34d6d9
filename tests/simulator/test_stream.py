"""Streams as files: the same bytes from the same seed, and one line for an error."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cachenet.shared.media import recording
from cachenet.simulator.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["stream", *map(str, arguments)])


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


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nope", "--out", "{place}/new"), "no stream 'nope'"),
        (("held", "--out", "{place}/full"), "is not empty"),
        (("held", "--out", "{place}/new", "--images", "cats"), "neither sample nor test"),
        (("held", "--out", "{place}/full/mine.txt"), "mine.txt: "),
    ],
)
def test_an_error_is_one_line(tmp_path: Path, arguments: tuple[str, ...], error: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    done = run(*(word.replace("{place}", str(tmp_path)) for word in arguments))
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert error in done.stderr
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
