"""Data sets of a build: every frame has one use."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cachenet.models.data.dataset import Dataset, collect
from cachenet.models.data.frames import Frames, FramesError, find
from cachenet.models.export.classifier import PRESETS, load_classifier
from cachenet.models.train.label import TeacherLogits, label_frames
from tests.models.test_classifier import write

UNIT = PRESETS["unit"]


def pictures(directory: Path, folders: list[str], each: int, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for folder in folders:
        (directory / folder).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            cv2.imwrite(str(directory / folder / f"{number:03}.png"), rng.integers(0, 256, (16, 16, 3), np.uint8))
    return directory


def video(path: Path, count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (32, 32))
    rng = np.random.default_rng(0)
    for _ in range(count):
        out.write(rng.integers(0, 256, (32, 32, 3), np.uint8))
    out.release()
    return path


def dataset(tmp_path: Path, data: Path, held_out: Path | None = None, labels: tuple[str, ...] | None = None) -> Dataset:
    classifier = load_classifier(write(tmp_path / "m.onnx"), UNIT, labels)

    def run(path: Path) -> tuple[Frames, TeacherLogits]:
        frames = find(path)
        return frames, label_frames(classifier, frames, tmp_path / "work", 1)

    return collect(classifier, run(data), None if held_out is None else run(held_out))


def test_frames_are_divided_and_none_is_used_twice(tmp_path: Path) -> None:
    made = dataset(tmp_path, pictures(tmp_path / "data", ["a"], 300))
    parts = (made.learn, made.tune, made.prove)
    assert [len(part) for part in parts] == [203, 30, 53], "gaps of seven frames"
    images = [picture.tobytes() for part in parts for picture in part.images]
    assert len(set(images)) == 286
    assert all(part.truth is None and [len(run) for run in part.runs] == [len(part)] for part in parts)
    assert np.array_equal(made.tune.split.labels, made.tune.scores.argmax(1))


def test_held_out_frames_are_not_trained_on(tmp_path: Path) -> None:
    data, held_out = pictures(tmp_path / "data", ["a"], 50), pictures(tmp_path / "held", ["a"], 150, seed=1)
    made = dataset(tmp_path, data, held_out)
    assert len(made.learn) == 50
    assert (len(made.tune), len(made.prove)) == (30, 117), "a gap between"
    files = sorted((held_out / "a").iterdir())
    first = cv2.imread(str(files[0]))[:, :, ::-1]
    assert np.array_equal(made.tune.images[0], first), "in order of names"


def test_folders_named_after_labels_give_true_labels(tmp_path: Path) -> None:
    names = ("cat", "dog", "cow", "owl")
    data = pictures(tmp_path / "data", ["dog", "cat"], 120)
    made = dataset(tmp_path, data, labels=names)
    assert made.prove.truth is not None
    assert set(made.prove.truth.tolist()) == {0, 1}
    # Under another name the truth is unknown.
    (tmp_path / "data" / "cat").rename(tmp_path / "data" / "lion")
    assert dataset(tmp_path, data, labels=names).prove.truth is None


def test_a_video_is_divided_by_time_with_gaps(tmp_path: Path) -> None:
    made = dataset(tmp_path, video(tmp_path / "data" / "a.avi", 900).parent)
    assert [len(part) for part in (made.learn, made.tune, made.prove)] == [630 - 16, 90, 180 - 16]
    for part in (made.learn, made.tune, made.prove):
        assert [run.tolist() for run in part.runs] == [list(range(len(part)))]


def test_too_few_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FramesError, match="frames to learn with, and 20 are needed"):
        dataset(tmp_path, pictures(tmp_path / "data", ["a"], 3))
