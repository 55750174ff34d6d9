"""The command from task file to table, JSON and plot, on a video that is drawn and two models that are made."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper

from benchmarks.real import __main__, measure, policies, recording, task, trivial
from benchmarks.real.recording import Recordings
from benchmarks.real.trivial import Run
from cachenet.shared.cascade.probability import softmax
from tests.benchmarks.real import drawn

TRIVIAL = ("hold", "difference", "student", "student+hold")


@pytest.fixture(autouse=True)
def cache(lamp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings are cached beside the task; CacheNet asks for every tenth frame."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(lamp.parent / "cache"))

    def cachenet(recordings: Recordings, max_disagreement: float, seed: int) -> Run:  # noqa: ARG001
        play = recordings.play
        return trivial.run("hold", play, trivial.inputs_of(play, softmax(play.base, 1.0)), {"n": 10})

    monkeypatch.setattr(policies, "cachenet", cachenet)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The command's exit code."""
    monkeypatch.setattr(sys, "argv", ["benchmarks.real", *map(str, arguments)])
    try:
        __main__.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_json_holds_every_policy_with_its_measures(
    lamp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--task", lamp, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    rows = found["policies"]
    wanted = {
        "cachenet",
        "cachenet@0.01",
        "server-only",
        "oracle",
        *TRIVIAL,
        *(f"{name}@hindsight" for name in TRIVIAL),
    }
    assert wanted <= set(rows)
    for name, row in rows.items():
        assert {"asked", "disagreement", "agreement", "truth", "overruled", "levels", "interval", "ms"} <= set(row)
        assert row["hindsight"] == (name.endswith("@hindsight") or name == "oracle")
        assert sum(row["levels"].values()) == pytest.approx(1, abs=1e-3)
        assert row["overruled"] == 0
    assert all(rows[name]["curve"] for name in TRIVIAL)
    assert len(rows["hold"]["curve"]) > 1
    assert rows["cachenet"]["curve"] == [[rows["cachenet"]["asked"], rows["cachenet"]["agreement"]]]
    assert rows["server-only"]["truth"] == found["full"]["truth"] == 1.0
    # The base model errs on five frames of each thirty.
    assert found["student"]["agreement"] == pytest.approx(5 / 6, abs=1e-5)
    assert "lamp" in found["dominated"]


def test_several_tasks_are_compared_and_plotted(
    lamp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    second = lamp.with_name("second.toml")
    second.write_text(lamp.read_text().replace("[140, 260]", "[150, 260]").replace('truth = "truth.csv"\n', ""))
    plot = tmp_path / "curves.png"
    assert run(monkeypatch, "--task", lamp, second, "--json", "--plot", plot) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["tasks"]) == set(found["pooled"]["tasks"]) == set(found["dominated"]) == {"lamp", "second"}
    assert found["tasks"]["second"]["policies"]["hold"]["truth"] is None
    assert cv2.imread(str(plot)) is not None


def test_the_table_fits_80_columns(
    lamp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    second = lamp.with_name("second.toml")
    second.write_text(lamp.read_text())
    assert run(monkeypatch, "--task", lamp, "--task", second) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("student+hold@hindsight") for line in lines)


def test_a_second_run_reads_the_cached_recording(lamp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = recording.record(task.load(lamp))
    monkeypatch.setattr(recording, "_run", None)  # running the models fails
    again = recording.record(task.load(lamp))
    assert all(np.array_equal(getattr(first.play, name), getattr(again.play, name)) for name in ("full", "base_ms"))


def test_a_damaged_recording_is_made_again(lamp: Path, tmp_path: Path) -> None:
    first = recording.record(task.load(lamp), tmp_path)
    [cached] = tmp_path.glob("*.npz")
    cached.write_bytes(cached.read_bytes()[:1000])
    assert np.array_equal(recording.record(task.load(lamp), tmp_path).play.full, first.play.full)


def test_another_region_is_another_recording(lamp: Path) -> None:
    moved = lamp.with_name("moved.toml")
    moved.write_text(lamp.read_text().replace("[0, 0, 32, 32]", "[32, 0, 32, 32]"))
    assert np.ptp(recording.record(task.load(moved)).play.full[:, 1]) < 1  # nothing changes there
    assert np.ptp(recording.record(task.load(lamp)).play.full[:, 1]) > 10


def test_the_metadata_of_a_base_model_gives_its_preprocessing(lamp: Path) -> None:
    model = onnx.load(lamp.with_name("base.onnx"))
    spec = {"side": 16, "mean": (255, 255, 255), "std": (1, 1, 1)}
    helper.set_model_props(model, {"cachenet.input": json.dumps(spec)})
    onnx.save(model, lamp.with_name("declared.onnx"))
    declared = lamp.with_name("declared.toml")
    declared.write_text(lamp.read_text().replace('"base.onnx"', '"declared.onnx"'))
    play = recording.record(task.load(declared)).play
    assert np.ptp(play.labels) == 1
    assert not play.base.argmax(1).any()  # with 255 subtracted every picture is dark


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("[0, 0, 32, 32]", "[40, 0, 32, 32]", "region [40, 0, 32, 32] reaches out of a frame of 64x32 pixels"),
        ("[140, 260]", "[140, 300]", "truth.csv has 120 lines for 160 play frames"),
        ("[0, 140]", "[300, 310]", "clip.avi has 260 frames, and frame 309 is asked for"),
        ('"raw"', '"rare"', "'rare' is no preprocessing"),
        ('"base.onnx"', '"labels.txt"', "labels.txt is no ONNX file"),
        ('"base.onnx"', '"three.onnx"', "three.onnx has 3 scores for 2 labels"),
        ('"clip.avi"', '"labels.txt"', "no video that OpenCV can read"),
        ("region", "reigon", "unknown key 'reigon'"),
    ],
)
def test_a_task_that_cannot_be_measured_is_one_line_and_exit_code_2(
    lamp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], old: str, new: str, why: str
) -> None:
    drawn.by_brightness(lamp.with_name("three.onnx"), 128, classes=3)
    bad = lamp.with_name("bad.toml")
    bad.write_text(lamp.read_text().replace(old, new, 1))
    assert run(monkeypatch, "--task", bad, "--json") == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1
    assert str(bad) in err
    assert why in err


def test_two_tasks_of_one_name_are_refused(
    lamp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--task", lamp, lamp) == 2
    assert "two task files are called lamp" in capsys.readouterr().err


def test_a_plot_that_cannot_be_written_is_one_line_and_exit_code_1(
    lamp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--task", lamp, "--plot", tmp_path / "gone" / "curves.png") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_thresholds_are_chosen_on_the_tuning_frames(lamp: Path) -> None:
    """With other play frames only the settings in hindsight change."""
    loaded = replace(task.load(lamp), truth=None)
    recordings = recording.record(loaded)
    fewer = Recordings(recordings.held_out, recordings.tune, recordings.play.part(60, 75))
    one, other = (measure.measure(loaded, frames, seed=0) for frames in (recordings, fewer))
    assert all(one.rows[name]["setting"] == other.rows[name]["setting"] for name in TRIVIAL)
    assert one.rows["hold@hindsight"]["setting"] != other.rows["hold@hindsight"]["setting"]
