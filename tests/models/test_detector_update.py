"""Scene submodels from the frames of devices: published where they are proven better there, and nowhere else."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from cachenet.models.bundle_writer import publish, under_construction
from cachenet.models.data.frames import FramesError, find
from cachenet.models.detect import build, update
from cachenet.models.detect.footage import read_block
from cachenet.models.detect.network import HeatmapShape
from cachenet.models.detect.train import train
from cachenet.models.export.detector import load_detector
from cachenet.models.train.fine_tune import NoImprovement
from cachenet.shared.bundle.manifest import FORMAT, Bundle, Manifest
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.inference.image import Picture
from cachenet.shared.transport.protocol import DetectionAnswer, Timing
from cachenet.shared.transport.recent_frames import RecentFrame, RecentFrames
from tests.models import squares

pytestmark = pytest.mark.slow

FRAMES = 100


def progress() -> Progress:
    return Progress(console=Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    video = cv2.VideoCapture(str(squares.video(tmp_path_factory.mktemp("video") / "squares.avi", FRAMES)))
    return [np.asarray(video.read()[1], np.uint8) for _ in range(FRAMES)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A full model that finds squares, and a base model that has learned for fifty steps from other footage."""
    directory = tmp_path_factory.mktemp("bundle")
    full = load_detector(squares.detector(directory / "full.onnx"))
    spec = build.own_input(squares.SIZE, squares.SIZE[0] * squares.SIZE[1])
    with under_construction(directory / "out") as building, progress() as shown:
        block = read_block(full, find(squares.video(directory / "other.avi", 60, 1)), spec, directory, 1, shown)
        network, _ = train(HeatmapShape((8, 16, 16), 1), spec, block, 1, directory, shown, "base", 8)
        models = {
            "full": build.write_detector(building, "full", "full", full, "squares"),
            "base": build.write_own(building, "base", "base", network, spec, ("square",), "squares"),
        }
        return publish(
            building, Manifest(FORMAT, "squares", "detection", ("square",), models, {}), directory / "out", None
        )


def sent(bundle: Bundle, pictures: Sequence[Picture], device: str = "cam", shift: float = 0.0) -> RecentFrames:
    """What a server collects. ``shift``: error of the answers on the first two thirds of the frames."""
    detect = load_detector(bundle.path("full")).detector()
    frames = []
    for number, picture in enumerate(pictures):
        found = detect(picture)
        if number < 2 * len(pictures) // 3:
            found = Detections(np.clip(found.boxes + np.float32(shift), 0, 1), found.labels, found.scores)
        answer = DetectionAnswer.of(found, bundle.manifest.models["full"].sha256, None, Timing(0.0, 0.0, 0.0, 1))
        frames.append(RecentFrame(device, cv2.imencode(".png", picture)[1].tobytes(), answer))
    return RecentFrames((device,), tuple(frames))


def run(bundle: Bundle, recent: RecentFrames, directory: Path) -> Bundle:
    with progress() as shown:
        return update.update(bundle, recent, directory / "updated", shown)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "EPOCHS", 3)


@pytest.fixture(scope="module")
def updated(bundle: Bundle, pictures: list[Picture], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(update, "EPOCHS", 3)
        return run(bundle, sent(bundle, pictures), tmp_path_factory.mktemp("updated"))


def test_a_better_detector_is_published_for_the_device_that_it_was_proven_on(bundle: Bundle, updated: Bundle) -> None:
    manifest = updated.manifest
    assert manifest.better_detector("cam") == "scene-001"
    assert manifest.better_detector("door") is None
    assert manifest.models["scene-001"].devices == ("cam",)
    assert {name: manifest.models[name] for name in ("full", "base")} == bundle.manifest.models


def test_a_second_camera_of_the_view_takes_the_submodel_without_training(
    updated: Bundle, pictures: list[Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "fine_tune", lambda *_: pytest.fail("a training began"))
    shared = run(updated, sent(updated, pictures, "door"), tmp_path)
    assert shared.manifest.models["scene-001"].devices == ("cam", "door")
    assert shared.manifest.models["scene-001"].sha256 == updated.manifest.models["scene-001"].sha256


def test_a_detector_that_is_as_good_is_not_published(
    updated: Bundle, pictures: list[Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "fine_tune", lambda present, *_: (present, []))
    with pytest.raises(NoImprovement, match=r"scene-001: F1 (\d\.\d+) against \1"):
        run(updated, sent(updated, pictures), tmp_path)
    assert not (tmp_path / "updated").exists()


def test_wrong_answers_to_learn_from_publish_nothing(bundle: Bundle, pictures: list[Picture], tmp_path: Path) -> None:
    with pytest.raises(NoImprovement):
        run(bundle, sent(bundle, pictures, shift=0.2), tmp_path)


def test_footage_of_another_place_to_learn_from_publishes_nothing(
    bundle: Bundle, pictures: list[Picture], tmp_path: Path
) -> None:
    """The camera was turned: what it learned from has bright squares, what it sees now dark ones."""
    turned = [np.asarray(255 - picture, np.uint8) for picture in pictures[:70]]
    recent = sent(bundle, pictures)
    other = tuple(
        msgspec.structs.replace(frame, picture=cv2.imencode(".png", picture)[1].tobytes())
        for frame, picture in zip(recent.frames, turned, strict=False)
    )
    with pytest.raises(NoImprovement):
        run(bundle, RecentFrames(recent.devices, other + recent.frames[70:]), tmp_path)


@pytest.mark.parametrize(("count", "why"), [(40, "40 frames of cam, and 60 are needed"), (62, "objects in the latest")])
def test_too_little_footage_is_refused(
    bundle: Bundle, pictures: list[Picture], count: int, why: str, tmp_path: Path
) -> None:
    some = pictures if count == 40 else [np.zeros_like(picture) for picture in pictures]
    with pytest.raises(FramesError, match=why):
        run(bundle, sent(bundle, some[:count]), tmp_path)


def test_frames_are_divided_by_time_and_none_is_used_twice(bundle: Bundle, pictures: list[Picture]) -> None:
    model = update.model_of(bundle, "base")
    block = update.block_of(sent(bundle, pictures), model.input, bundle.manifest)
    marked = block.pictures.copy()
    marked[:, 0, 0, 0] = np.arange(FRAMES)
    parts = update.divided(replace(block, pictures=marked))
    numbers = [part.pictures[:, 0, 0, 0].tolist() for part in parts]
    assert [own[0] for own in numbers] == sorted(own[0] for own in numbers)
    assert len({number for own in numbers for number in own}) == sum(map(len, numbers)) < FRAMES
    assert numbers[0][-1] < numbers[1][0] - 1 and numbers[1][-1] < numbers[2][0] - 1


def test_the_oldest_scene_submodel_makes_room(updated: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = updated.manifest.models["scene-001"]
    monkeypatch.setattr(update, "_MAX_SCENES", 1)
    with under_construction(tmp_path / "out") as building:
        path = building / "scene-002" / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(updated.path("scene-001").read_bytes())
        newer = msgspec.structs.replace(entry, file="scene-002/1/model.onnx", devices=("door",))
        made = update._publish(updated, building, tmp_path / "out", "scene-002", newer)
    assert made.manifest.submodels() == ["scene-002"]
