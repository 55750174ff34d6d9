"""A change in the middle of a clip: the pictures from there on change, for both models."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scene_change
from benchmarks.real import policies, recording, task

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def cache(lamp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(lamp.parent / "cache"))


def test_each_change_does_what_its_name_says() -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[40:60, 40:60] = 128
    assert scene_change.darker(picture)[50, 50, 0] == 64
    assert scene_change.brighter(picture)[50, 50, 0] == 179
    shifted = scene_change.moved(picture)
    np.testing.assert_array_equal(shifted[46:66, 48:68], picture[40:60, 40:60])


def test_models_run_on_the_changed_pictures_of_the_second_half(lamp: Path) -> None:
    one = task.load(lamp)
    play = policies.trace(recording.record(one).play)
    same, inverted = (
        policies.trace(scene_change._recorded(one, 60, change)) for change in (lambda own: own, lambda own: 255 - own)
    )
    assert len(same) == len(inverted) == 60
    trace = scene_change.joined(play.part(0, 60), same)
    np.testing.assert_array_equal(trace.full, play.full)
    np.testing.assert_array_equal(trace.base, play.base)
    assert all(
        np.array_equal(own.blocks, other.blocks) for own, other in zip(trace.signatures, play.signatures, strict=True)
    )
    assert (inverted.labels != same.labels).any()


def test_the_command_measures_every_change_and_the_restart(
    lamp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scene_change, "AFTER", 20)
    monkeypatch.setattr(sys, "argv", ["scene_change", "--task", str(lamp), "--draws", "1", "--json"])
    scene_change.main()
    found = json.loads(capsys.readouterr().out)["changes"]
    assert list(found) == ["none", "darker", "brighter", "moved", "restart"]
    for row in found.values():
        assert all(0.0 <= row[key] <= 1.0 for key in ("before", "first", "later", "asked", "scene", "audits"))
    assert found["none"]["scene"] == found["none"]["audits"] == 0.0


def test_a_missing_task_file_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scene_change", "--task", str(tmp_path / "none.toml")])
    with pytest.raises(SystemExit) as ended:
        scene_change.main()
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
