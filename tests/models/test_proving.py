"""Proving again: the models stay, and what is promised of them is found anew on other frames."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from models.cli import app
from shared.bundle import Bundle
from shared.signing import Key, generate
from tests.hampered import hampered_bundle, pictures


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(hampered_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("frames"), 0, 300)


def run(*given: object) -> Result:
    return CliRunner().invoke(app, ["prove", *map(str, given)])


def test_models_stay_and_promises_are_found_anew(bundle: Bundle, frames: Path, tmp_path: Path) -> None:
    private, public = generate(tmp_path / "keys")
    out = tmp_path / "out"
    given = (bundle.directory, "--held-out", frames, "--out", out, "--work", tmp_path / "work", "--key", private)
    done = run(*given, "--quick", "--workers", 1)
    assert done.exit_code == 0, done.output
    made = Bundle(out)
    before, after = bundle.manifest, made.manifest
    assert {name: one.sha256 for name, one in after.models.items()} == {
        name: one.sha256 for name, one in before.models.items()
    }
    assert after.models["base"].coverage != before.models["base"].coverage
    assert after.models["base"].temperature != before.models["base"].temperature
    assert "to prove" in after.provenance["proven"]
    assert {gate.streams for gate in after.gates} != {gate.streams for gate in before.gates}
    assert Key(public).vouches(made.data, made.signature)


def test_what_cannot_be_is_one_clear_line_and_nothing_is_written(bundle: Bundle, frames: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    for given, told in (
        ((bundle.directory, "--held-out", frames, "--out", mine), "is no bundle; name a new directory"),
        ((mine, "--held-out", frames, "--out", tmp_path / "new"), "is no bundle"),
        ((bundle.directory, "--held-out", mine, "--out", tmp_path / "new"), "holds no pictures"),
    ):
        done = run(*given, "--quick", "--work", tmp_path / "work")
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
        assert told in done.stderr
    assert (mine / "letter.txt").read_text() == "dear"
    assert not (tmp_path / "new").exists()
