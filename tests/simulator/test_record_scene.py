"""Recordings of a video that is drawn, with a detector of coloured squares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from cachenet.models.export.detector import DetectorModel, load_detector
from cachenet.models.export.preprocessing import parse_preprocessing
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import encode, wire_picture
from cachenet.simulator.traces import record_scene
from cachenet.simulator.traces.record_scene import Clip, record, size_of
from tests.models.detector_kinds import HEIGHT, SIDE, WIDTH, scene, squares
from tests.shared.cascade.detect.scenes import same

#: Step of the red square to the right from frame to frame, pixels.
STEP = 2
FRAMES = 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red square moves to the right; a blue one stands still."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for at in range(FRAMES):
        writer.write(scene(("red", 8 + STEP * at, 16), ("blue", 120, 64)))
    writer.release()
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DetectorModel:
    return load_detector(
        squares(tmp_path_factory.mktemp("model") / "squares.onnx"), parse_preprocessing("unit,rgb"), ("red", "blue")
    )


def recorded(clip: Path, model: DetectorModel, cache: Path, *ranges: range) -> Sequence[record_scene.SceneRecording]:
    return record(Clip(clip), ranges, model, model, cache)


def test_a_recording_has_the_frames_of_its_range(clip: Path, model: DetectorModel, tmp_path: Path) -> None:
    [late, early] = recorded(clip, model, tmp_path, range(20, 30), range(5, 15))
    assert [len(late), len(early)] == [10, 10]
    assert early.fps == 10
    for first, one in ((20, late), (5, early)):
        assert [frame.index for frame in one.frames] == list(range(10))
        assert one.frames[0].flow is None
        for at, found in enumerate(one.full):
            red = found.take(found.labels == 0)
            assert red.boxes[0, 0] * WIDTH == pytest.approx(8 + STEP * (first + at), abs=6)
        assert min(map(np.min, (one.base_ms, one.picture_ms, one.encode_ms))) > 0


def test_flow_and_changed_cells_follow_what_moves(clip: Path, model: DetectorModel, tmp_path: Path) -> None:
    [one] = recorded(clip, model, tmp_path, range(FRAMES))
    frame = one.frames[10]
    left = (8 + STEP * 9) / WIDTH
    tracked = np.array([[left, 16 / HEIGHT, left + SIDE / WIDTH, 40 / HEIGHT], [0.75, 0.66, 0.9, 0.92]], np.float32)
    assert frame.flow is not None
    shifts = frame.flow(tracked).shifts
    assert shifts[1].tolist() == [0, 0]
    assert 0 < frame.moved.mean() < 0.5
    assert one.meter.take()[0] > 0
    assert np.abs(shifts[0, 1]) < 0.01


def test_the_size_of_a_question_is_that_of_the_picture_that_is_sent(
    clip: Path, model: DetectorModel, tmp_path: Path
) -> None:
    [one] = recorded(clip, model, tmp_path, range(2, 12))
    capture = cv2.VideoCapture(str(clip))
    pictures = [capture.read()[1] for _ in range(12)]
    sent = encode(wire_picture(pictures[4], model.input))[1]
    assert one.nbytes[2] == len(sent)


def test_detections_are_cached_by_model_and_frames(
    clip: Path, model: DetectorModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [first] = recorded(clip, model, tmp_path, range(10))
    monkeypatch.setattr(DetectorModel, "detector", None)  # running the models fails
    [again] = recorded(clip, model, tmp_path, range(10))
    assert all(map(same, first.full, again.full))
    assert np.array_equal(first.base_ms, again.base_ms)
    with pytest.raises(TypeError):
        recorded(clip, model, tmp_path, range(11))


def test_a_damaged_cache_is_made_again(clip: Path, model: DetectorModel, tmp_path: Path) -> None:
    [first] = recorded(clip, model, tmp_path, range(10))
    for cached in tmp_path.glob("*.npz"):
        cached.write_bytes(cached.read_bytes()[:200])
    [again] = recorded(clip, model, tmp_path, range(10))
    assert all(map(same, first.full, again.full))


@pytest.mark.parametrize(("name", "why"), [("gone.avi", "No such file"), ("text.avi", "no video that OpenCV can read")])
def test_a_file_that_is_no_video_is_refused(model: DetectorModel, tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "text.avi").write_text("text")
    with pytest.raises(UserError, match=f"{name}: {why}"):
        recorded(tmp_path / name, model, tmp_path, range(10))


def test_a_video_that_is_too_short_is_refused(clip: Path, model: DetectorModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 30 frames, and frame 39 is needed"):
        recorded(clip, model, tmp_path, range(20, 40))


def test_the_size_of_a_video_is_that_of_its_frames(clip: Path) -> None:
    assert size_of(clip) == (WIDTH, HEIGHT)
