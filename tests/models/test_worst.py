"""The frames behind most errors: stretches of footage by their share of the errors, with names and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cachenet.models.cli import app
from cachenet.models.data.frames import Frames
from cachenet.models.report.worst import LENGTH, names, stretches
from tests.detectors import detector_bundle, footage, record


@given(st.lists(st.tuples(st.integers(1, 70), st.integers(0, 3)), min_size=1, max_size=4), st.integers(0, 99))
def test_a_stretch_is_within_one_sequence_and_has_its_errors(runs: list[tuple[int, int]], seed: int) -> None:
    sequences = np.concatenate([np.full(length, number) for number, (length, _) in enumerate(runs)])
    rng = np.random.default_rng(seed)
    errors = np.concatenate([rng.integers(0, most + 1, length) for length, most in runs]).astype(np.float64)
    found = stretches(errors, sequences)
    assert [one.errors for one in found] == sorted((one.errors for one in found), reverse=True)
    assert sum(one.share for one in found) <= 1.0 + 1e-9
    for one in found:
        assert 0 <= one.last - one.first < LENGTH and len(set(sequences[one.first : one.last + 1])) == 1
        assert one.errors == errors[one.first : one.last + 1].sum() > 0
        assert errors[one.worst] == errors[one.first : one.last + 1].max()
    if len(found) < 6:
        assert sum(one.errors for one in found) == errors.sum()


def test_a_frame_is_named_by_its_file_and_in_a_video_by_its_number() -> None:
    frames = Frames((Path("a.png"), Path("clip.mp4")), ("", ""), frame_step=2)
    files = np.array([0, 1, 1, 1])
    assert names(frames, files, [0, 1, 3]) == ["a.png", "clip.mp4, frame 0", "clip.mp4, frame 4"]
    assert names(frames, None, [3]) == ["frame 3"]


def test_the_command_lists_and_draws_them(tmp_path: Path) -> None:
    """The base detector of the bundle is up to two pixels off, and its footage has fast squares."""
    bundle = detector_bundle(tmp_path / "squares")
    recorded = record(tmp_path / "stream", footage(60, squares=3))
    command = ["report", str(bundle), "--data", str(recorded), "--work", str(tmp_path / "work"), "--worst"]
    output = CliRunner().invoke(app, [*command, "--draw", str(tmp_path / "worst.png"), "--json"])
    assert output.exit_code == 0, output.stderr
    found = json.loads(output.stdout)["worst"]
    assert found["frames"] == 60
    if found["errors"]:
        assert (tmp_path / "worst.png").read_bytes().startswith(b"\x89PNG")
        assert found["stretches"][0]["worst"].endswith(".png")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--draw", "a.png"], "--draw is for --worst"),
        (["--worst", "--html", "a.html"], "--html is for the whole report"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags: list[str], message: str, tmp_path: Path) -> None:
    output = CliRunner().invoke(app, ["report", "campus", *[flag.replace("a.", f"{tmp_path}/a.") for flag in flags]])
    assert (output.exit_code, output.stderr.count("\n")) == (2, 1) and message in output.stderr
