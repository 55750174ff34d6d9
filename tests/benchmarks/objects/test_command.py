"""The command from videos and models to JSON, tables and plot."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.objects import __main__, choice, measure
from cachenet.shared.command.errors import UserError
from tests.detectors import detector_bundle
from tests.models.detector_kinds import HEIGHT, SIDE, WIDTH, scene, squares

POLICIES = {"cachenet", "server-only", "device-base", "hold", "carry", "difference", "motion", "react", "oracle"}
FIELDS = {"streaming_f1", "interval", "object_error", "asked", "kb_up_s", "device_ms", "levels", "setting"}
BUILD, MEASURE = range(0, 60), range(65, 130)


def left_of(at: int) -> int:
    """Left side of the red square, pixels: to and fro."""
    return 8 + abs(at % 100 - 50)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip, a detector, true boxes, and an empty cache."""
    path = tmp_path_factory.mktemp("objects")
    writer = cv2.VideoWriter(str(path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for at in range(MEASURE.stop):
        writer.write(scene(("red", left_of(at), 16), ("blue", 120, 64)))
    writer.release()
    squares(path / "squares.onnx")
    lines = [f"{at + 1},1,{left_of(at)},16,{SIDE},{SIDE},1,-1,-1,-1" for at in MEASURE]
    (path / "truth.txt").write_text("\n".join(lines))
    return path


def arguments(directory: Path, **changed: object) -> list[str]:
    """Arguments of the command; ``changed``: other values, None for no such argument."""
    values: dict[str, object] = {
        "video": directory / "clip.avi",
        "full": directory / "squares.onnx",
        "base": directory / "squares.onnx",
        "labels": "person,ball",
        "preprocessing": "unit",
        "base-preprocessing": "unit",
        "build": f"{BUILD.start}:{BUILD.stop}",
        "measure": f"{MEASURE.start}:{MEASURE.stop}",
    } | changed
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None]


@pytest.fixture(scope="module")
def result(directory: Path) -> Iterator[dict[str, Any]]:
    """The result with few settings, and detections cached beside the clip."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        patch.setattr(choice, "_EVERY", (1, 5))
        patch.setattr(measure, "BUDGETS", (0.1, 0.15))
        given = arguments(directory, truth=directory / "truth.txt")
        yield __main__._result(__main__._parser().parse_args(given))


def run(monkeypatch: pytest.MonkeyPatch, *given: str) -> int:
    """The command's exit code."""
    monkeypatch.setattr(sys, "argv", ["benchmarks.objects", *given])
    try:
        __main__.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.slow
def test_every_policy_has_its_measures(result: dict[str, Any]) -> None:
    rows = result["policies"]
    assert {*POLICIES, "cachenet@0.15"} <= set(rows)
    for row in rows.values():
        assert set(row) - {"curve"} == FIELDS
        assert 0 <= row["asked"] <= 1
        assert sum(row["levels"].values()) == pytest.approx(1, abs=1e-3)
    assert all(rows[name]["curve"] for name in POLICIES)
    assert rows["server-only"]["asked"] == 1.0
    assert rows["device-base"]["streaming_f1"] == 1.0  # both models are the same
    assert rows["device-base"]["kb_up_s"] == 0.0
    assert rows["oracle"]["streaming_f1"] == 1.0
    assert set(result["paired"]) == POLICIES - {"cachenet"}
    assert set(result["budgets"]) == {"0.1", "0.15"}
    assert result["budgets"]["0.1"]["blocks"] == 2
    assert result["frames"] == {"build": [0, 60], "measure": [65, 130]}
    assert result["labels"] == ["person", "ball"]
    assert result["late"] >= 1
    assert result["truth"]["full"] == 1.0


@pytest.mark.slow
def test_the_result_is_printed_as_json_or_in_80_columns_and_plotted(
    result: dict[str, Any], directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(__main__, "_result", lambda _chosen: result)
    plot = directory / "plot.png"
    assert run(monkeypatch, *arguments(directory, plot=plot), "--json") == 0
    assert json.loads(capsys.readouterr().out) == result
    image = cv2.imread(str(plot))
    assert image is not None
    assert np.ptp(image) > 200
    assert run(monkeypatch, *arguments(directory)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert {"react", "oracle", "cachenet@0.15"} <= {line.split()[0] for line in lines if line}
    assert any(line.startswith("against true boxes") for line in lines)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"video": "gone.avi"}, "gone.avi: No such file"),
        ({"full": "gone.onnx"}, "gone.onnx"),
        ({"preprocessing": "rare"}, "'rare' is no preprocessing"),
        ({"base": None}, "--base FILE.onnx is needed"),
        ({"bundle": "cifar10"}, "cifar10 is a bundle of classifiers"),
        ({"measure": "50:120"}, "--build 0:60 and --measure 50:120 overlap"),
        ({"measure": "100:400"}, "has 130 frames, and frame 399 is needed"),
        ({"plot": "gone/plot.png"}, "gone is no directory"),
        ({"link": "tin-can"}, "no link 'tin-can'"),
        ({"labels": "car,ball", "truth": "truth.txt"}, "--truth is of the label person"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_exit_code_2(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, object],
    why: str,
) -> None:
    assert run(monkeypatch, *arguments(directory, **changed), "--json") == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1
    assert why in err


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"build": "0-380"}, "'0-380' is not FIRST:END"),
        ({"build": "0:10"}, "at least 30 frames"),
        ({"fps": "-1"}, "no positive number"),
        ({"fps": "nan"}, "no positive number"),
        ({"server_ms": "soon"}, "no positive number"),
        ({"video": None}, "required: --video"),
    ],
)
def test_bad_arguments_are_explained_with_exit_code_2(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, object],
    why: str,
) -> None:
    assert run(monkeypatch, *arguments(directory, **changed)) == 2
    assert why in capsys.readouterr().err


def models(directory: Path, **changed: object) -> __main__.Models:
    return __main__._models(__main__._parser().parse_args(arguments(directory, **changed)))


def test_a_bundle_gives_models_labels_and_the_least_score_of_a_candidate(directory: Path, tmp_path: Path) -> None:
    bundle = detector_bundle(tmp_path)
    found = models(directory, bundle=bundle, full=None, base=None, labels=None)
    assert found.full.labels == found.base.labels == ("square",)
    assert found.full.path == bundle / "full" / "1" / "model.onnx"
    assert (found.full.decoder.score, found.base.decoder.score, found.least) == (0.5, 0.1, 0.1)
    assert found.priors is None  # this bundle has none
    with pytest.raises(UserError, match="does not find dog"):
        models(directory, bundle=bundle, full=None, base=None, labels="dog")


def test_models_of_their_own_take_precedence_over_those_of_a_bundle(directory: Path, tmp_path: Path) -> None:
    own = squares(tmp_path / "own.onnx", {"names": "{0: 'ball', 1: 'square'}"})
    found = models(directory, bundle=detector_bundle(tmp_path), full=None, base=own, labels=None)
    assert found.base.path == own
    assert found.base.decoder.classes == (1,)
    assert found.least is None
