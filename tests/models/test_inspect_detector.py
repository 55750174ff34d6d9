"""``model-builder inspect`` of a detector: what is found in a user's frames, counted and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cachenet.models.cli import app
from cachenet.models.report import box_sheet, contact_sheet
from cachenet.shared.bundle import zoo
from tests.models import test_find_decoder as exporters
from tests.models.detector_kinds import HEIGHT, SIDE, WIDTH, fixed, scene, squares


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["inspect", "--threads", "1", *map(str, arguments)])


def left_of(number: int) -> int:
    """Left side of the red square in a frame, a multiple of the detector's stride."""
    return 8 + 8 * (number % 10)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Twenty frames of twice the model's size: two empty ones, and eighteen with a red square, nine with a blue one."""
    directory = tmp_path / "frames"
    directory.mkdir()
    for number in range(20):
        objects = [("red", left_of(number), 32)] * (number >= 2) + [("blue", 120, 64)] * (number >= 11)
        cv2.imwrite(str(directory / f"{number:02}.png"), scene(*objects).repeat(2, 0).repeat(2, 1))
    return directory


@pytest.fixture
def full(tmp_path: Path) -> Path:
    return squares(tmp_path / "squares.onnx", {"names": "{0: 'red', 1: 'blue'}"})


def inspected(*arguments: str | Path) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_boxes_of_the_frames_are_counted(full: Path, frames: Path) -> None:
    found = inspected("--full", full, "--data", frames, "--preprocessing", "unit,stretch")
    assert (found["decoder"], found["classes"], found["frames"], found["files"]) == ("heatmap", 2, 20, 20)
    assert found["boxes_per_frame"] == pytest.approx((18 + 9) / 20)
    assert found["frames_without_boxes"] == pytest.approx(2 / 20)
    assert found["labels"] == {"red": pytest.approx(18 / 20), "blue": pytest.approx(9 / 20)}
    assert 0.9 < found["mean_score"] <= 1
    assert found["takes"].startswith(f"{WIDTH}x{HEIGHT} rgb")
    assert found["verdict"] == ["1.4 boxes in a frame, 2 of 2 labels. --draw shows whether they fit."]
    table = run("--full", full, "--data", frames, "--preprocessing", "unit,stretch")
    assert "boxes per frame" in table.stdout and "1.35" in table.stdout and "10.0%" in table.stdout


def test_some_labels_are_counted_alone(full: Path, frames: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("blue\n")
    found = inspected(
        "--full", full, "--data", frames, "--preprocessing", "unit,stretch", "--labels", tmp_path / "labels.txt"
    )
    assert (found["classes"], found["labels"]) == (1, {"blue": pytest.approx(9 / 20)})


def test_nine_evenly_spaced_frames_are_drawn_with_their_boxes(
    full: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[box_sheet.Panel] = []

    def sheet(title: str, panels: list[box_sheet.Panel], draw: Any = box_sheet.sheet) -> bytes:
        drawn.extend(panels)
        assert "squares.onnx: heatmap" in title
        return bytes(draw(title, panels))

    monkeypatch.setattr(box_sheet, "sheet", sheet)
    out = tmp_path / "out.png"
    inspected("--full", full, "--data", frames, "--preprocessing", "unit,stretch", "--draw", out)
    assert len(drawn) == 9
    numbers = [int(panel.title.split(".png")[0]) for panel in drawn]
    assert numbers == sorted(numbers) and numbers[0] == 0 and numbers[-1] >= 18
    for number, panel in zip(numbers, drawn, strict=True):
        assert [box.label for box in panel.boxes] == ["red"] * (number >= 2) + ["blue"] * (number >= 11)
        for box in panel.boxes:
            left, top = (left_of(number), 32) if box.label == "red" else (120, 64)
            expected = np.array([left, top, left + SIDE, top + SIDE]) / np.array([WIDTH, HEIGHT] * 2)
            np.testing.assert_allclose(box.place, expected, atol=1e-6)
    picture = cv2.imread(str(out))
    assert picture is not None and min(picture.shape[:2]) > 600


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_drawn_frames_of_videos_have_their_number_in_the_video(
    task: str, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    for name in ("a.avi", "b.avi"):
        writer = cv2.VideoWriter(
            str(tmp_path / "data" / name), cv2.VideoWriter.fourcc(*"MJPG"), 10, (2 * WIDTH, 2 * HEIGHT)
        )
        for grey in range(16):
            writer.write(np.full((2 * HEIGHT, 2 * WIDTH, 3), grey, np.uint8))
        writer.release()
    titles: list[str] = []

    def sheet(_title: str, panels: list[Any]) -> bytes:
        titles.extend(panel.title.split(":")[0] for panel in panels)
        return b""

    monkeypatch.setattr(box_sheet, "sheet", sheet)
    monkeypatch.setattr(contact_sheet, "sheet", sheet)
    model = full if task == "detection" else zoo.find(Path("cifar10")) / "full/1/model.onnx"
    flags = ("--preprocessing", "unit,stretch") if task == "detection" else ("--work", tmp_path / "work")
    done = run(
        "--full", model, "--data", tmp_path / "data", "--frame-step", "4", "--draw", tmp_path / "out.png", *flags
    )
    assert done.exit_code == 0, done.output
    assert titles == [f"{name}, frame {number}" for name in ("a.avi", "b.avi") for number in (0, 4, 8, 12)]


def test_labels_of_a_model_are_drawn_as_plain_text(frames: Path, tmp_path: Path) -> None:
    full = squares(tmp_path / "m.onnx", {"names": repr({0: "[red]$a_b$[/red]", 1: "\x1b[2J\n"})})
    done = run("--full", full, "--data", frames, "--preprocessing", "unit,stretch", "--draw", tmp_path / "out.png")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output


def test_where_nothing_is_found_other_preprocessing_is_named(full: Path, frames: Path) -> None:
    dark = json.dumps({"side": WIDTH, "height": HEIGHT, "mean": [0, 0, 0], "std": [9e9] * 3})
    found = inspected("--full", full, "--data", frames, "--preprocessing", dark)
    assert (found["boxes_per_frame"], found["frames_without_boxes"], found["labels"]) == (0, 1, {})
    [verdict] = found["verdict"]
    assert verdict.startswith("Nothing is found in nearly all frames.")
    assert "fastestdet (" in verdict and "yolo (" in verdict


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "squares.onnx does not say how pictures are to be prepared"),
        (["--preprocessing", "photo"], "is no preprocessing; give imagenet"),
        (["--decoder", "best"], "--decoder best is none of auto, ssd, yolox"),
        (["--decoder", "yolov8"], "do not fit yolov8, which takes (1, 4 + classes, n), decoded"),
        (["--labels", "none.txt"], "--labels none.txt is not there"),
        (["--draw", "."], "is a directory; give a file to draw to"),
    ],
)
def test_invalid_input_is_one_line(full: Path, frames: Path, flags: list[str], message: str) -> None:
    done = run("--full", full, "--data", frames, *flags)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_that_may_be_several_detectors_is_one_line_that_says_how_to_name_one(
    frames: Path, tmp_path: Path
) -> None:
    rng, of = np.random.default_rng(0), exporters.FORMS
    full = fixed(tmp_path / "both.onnx", {**of["YOLOX"][0](rng), **of["heatmap"][0](rng)})
    done = run("--full", full, "--data", frames)
    assert done.exit_code == 2
    assert "may be of yolox or heatmap; name one with --decoder (ssd: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert inspected("--full", full, "--data", frames, "--decoder", "yolox")["decoder"] == "yolox"


def test_files_that_cannot_be_read_are_named(full: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b.png").write_bytes(b"broken")
    done = run("--full", full, "--data", tmp_path / "data", "--preprocessing", "unit,stretch")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "no file can be read; the first," in done.stderr
    cv2.imwrite(str(tmp_path / "data" / "a.png"), scene(("red", 8, 8)))
    found = inspected("--full", full, "--data", tmp_path / "data", "--preprocessing", "unit,stretch")
    assert (found["frames"], found["skipped"]) == (1, 1)


def test_a_build_takes_the_decoder_too(full: Path, frames: Path, tmp_path: Path) -> None:
    build = ["build", "--full", full, "--data", frames, "--out", tmp_path / "out", "--decoder"]
    for decoder, message in (("yolov8", "do not fit yolov8"), ("best", "decoder")):
        done = CliRunner().invoke(app, [*map(str, build), decoder])
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
    assert not (tmp_path / "out").exists()
