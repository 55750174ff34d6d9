from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.models.data import camera, sample, streams
from cachenet.models.data.cifar10 import LABELS
from cachenet.models.data.scenes import KNOWN, SCENES, UNSEEN
from cachenet.shared.inference.image import Input, crop
from cachenet.shared.media import recording as stream

SAMPLE = sample.load()
names = st.sampled_from(streams.STREAM_NAMES)
seeds = st.integers(0, 2**32 - 1)
CROP = Input(32, (0, 0, 0), (1, 1, 1))


def plan(name: streams.StreamName, seed: int = 0, frames: int = 1000, **kwargs: object) -> streams.StreamSchedule:
    return streams.schedule(name, SAMPLE.labels, seed, frames, **kwargs)  # type: ignore[arg-type]


def object_changes(one: streams.StreamSchedule) -> np.ndarray:
    """Whether a frame is the first of its object ``(frames,)``."""
    return np.diff(one.dwell, prepend=-1) > 0


def arrays(one: streams.StreamSchedule) -> dict[str, np.ndarray]:
    return {f.name: v for f in dataclasses.fields(one) if isinstance(v := getattr(one, f.name), np.ndarray)}


def digest() -> str:
    return hashlib.sha256(
        b"".join(a.tobytes() for name in streams.STREAM_NAMES for a in arrays(plan(name, 7, 3000)).values())
    ).hexdigest()


def test_scenes_are_frozen() -> None:
    assert [scene.classes for scene in SCENES] == [
        (4, 5, 6, 7),
        (2, 3, 5, 6, 7),
        (2, 4, 5, 7),
        (3, 4, 5, 7),
        (0, 1, 9),
        (0, 1, 8),
        (0, 4, 6),
        (1, 2, 9),
        (2, 3, 5, 8),
        (0, 5, 9),
        (0, 3, 4, 7, 9),
        (0, 2, 5, 6),
    ]
    assert UNSEEN == (3, 5, 10, 11) and sorted(KNOWN + UNSEEN) == list(range(12))
    for part in (KNOWN, UNSEEN):
        assert {c for number in part for c in SCENES[number].classes} == set(range(10))


def test_schedules_are_frozen() -> None:
    """If this fails, every published number has changed its meaning."""
    assert digest() == "ed9582ad35b95ddba506f5eed989f5609d10e8b4e933952406ba5435580de707"


def test_a_schedule_is_the_same_in_another_process() -> None:
    code = "from tests.models import test_streams as t; print(t.digest())"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        root = Path(__file__).parents[2]
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        assert result.stdout.strip() == digest()


@settings(max_examples=30, deadline=None)
@given(name=names, seed=seeds, frames=st.integers(1, 2500), more=st.integers(0, 2500))
def test_a_shorter_schedule_is_the_beginning_of_a_longer_one(
    name: streams.StreamName, seed: int, frames: int, more: int
) -> None:
    short, long = arrays(plan(name, seed, frames)), arrays(plan(name, seed, frames + more))
    assert len(short) == 8
    assert all(np.array_equal(short[field], long[field][:frames]) for field in short)


@settings(max_examples=30, deadline=None)
@given(name=names, seed=seeds, count=st.integers(1, 20))
def test_pools_are_disjoint_and_balanced_and_streams_stay_within_theirs(
    name: streams.StreamName, seed: int, count: int
) -> None:
    pools = streams.split_pools(SAMPLE.labels, count, seed)
    assert np.array_equal(np.sort(np.concatenate(pools)), np.arange(1000))
    for pool in pools:
        per_class = np.bincount(SAMPLE.labels[pool], minlength=10)
        assert per_class.max() - per_class.min() == 0 and abs(per_class[0] - 100 / count) < 1
    assert np.isin(plan(name, seed, 500, pool=pools[-1]).source, pools[-1]).all()


@settings(max_examples=30, deadline=None)
@given(name=names, seed=seeds, scenes=st.sets(st.integers(0, 11), min_size=1))
def test_labels_scenes_and_out_of_set_objects_are_consistent(
    name: streams.StreamName, seed: int, scenes: set[int]
) -> None:
    one = plan(name, seed, 2000, scenes=sorted(scenes))
    assert np.array_equal(one.label, SAMPLE.labels[one.source])
    assert one.dwell[0] == 0 and set(np.unique(np.diff(one.dwell))) <= {0, 1}
    if name == "shuffled":
        assert (one.scene == -1).all() and not one.out_of_set.any()
        return
    assert set(one.scene) <= scenes
    belongs = np.array([[c in scene.classes for c in range(10)] for scene in SCENES])
    assert np.array_equal(belongs[one.scene, one.label], ~one.out_of_set)
    within = ~object_changes(one)
    for field in ("label", "scene", "out_of_set") + (("source",) if name in ("held", "camera") else ()):
        assert not np.diff(getattr(one, field))[within[1:]].any(), field


@pytest.mark.parametrize("name", ["session", "dwell", "held", "camera"])
def test_dwell_times_scenes_and_out_of_set_objects_have_their_statistics(name: streams.StreamName) -> None:
    """Within five standard errors; the seeds are fixed."""
    frames, mean = 600_000, 1 if name == "session" else 30
    one = plan(name, 5, frames)
    dwells = int(one.dwell[-1]) + 1
    assert abs(frames / dwells - mean) <= 5 * np.sqrt(mean * (mean - 1) / dwells)
    if mean > 1:  # the distribution is geometric
        lengths = np.bincount(one.dwell)
        assert lengths.std() == pytest.approx(np.sqrt(mean * (mean - 1)), rel=0.05)
        assert (lengths == 1).mean() == pytest.approx(1 / mean, rel=0.2)
    first = object_changes(one)
    assert abs(one.out_of_set[first].mean() - 0.05) < 5 * np.sqrt(0.05 * 0.95 / dwells)
    visits = np.diff(np.flatnonzero(np.diff(one.scene, prepend=-2)))
    assert visits.mean() == pytest.approx(500, rel=0.02) and visits.std() > 50
    assert np.bincount(one.scene, minlength=12).min() > frames / 12 / 2


def test_class_frequencies_within_a_scene_follow_zipf() -> None:
    """In one visit to a scene of three, the frequencies are 6, 3 and 2 of 11; over many visits they are equal."""
    one = plan("session", 1, 200_000, scenes=[4])
    shares = np.array(
        [
            np.sort(np.bincount(visit[~gone], minlength=10)[[0, 1, 9]])[::-1]
            for visit, gone in zip(
                # The middle 300 frames of every 500 lie within one visit.
                one.label.reshape(-1, 500)[:, 100:400],
                one.out_of_set.reshape(-1, 500)[:, 100:400],
                strict=True,
            )
        ]
    ).sum(0)
    assert shares / shares.sum() == pytest.approx([6 / 11, 3 / 11, 2 / 11], abs=0.01)
    total = np.bincount(one.label[~one.out_of_set], minlength=10)[[0, 1, 9]]
    assert total / total.sum() == pytest.approx([1 / 3] * 3, abs=0.04)


def test_dwell_held_and_camera_show_the_same_classes() -> None:
    dwell, held, cam = (plan(name, 9) for name in ("dwell", "held", "camera"))
    assert np.array_equal(dwell.label, held.label) and np.array_equal(held.source, cam.source)
    assert (np.diff(dwell.source) != 0).mean() > 0.9


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="shuffled, session"):
        plan("video")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="class 2"):
        plan("dwell", pool=np.flatnonzero(SAMPLE.labels != 2))
    with pytest.raises(ValueError, match="a frame and a scene"):
        plan("dwell", frames=0)


@pytest.mark.parametrize("name", ["shuffled", "session", "dwell"])
def test_independent_streams_show_unchanged_images(name: streams.StreamName) -> None:
    one = plan(name, 2, 20)
    render = streams.renderer(one, SAMPLE.images)
    for index in range(20):
        assert np.array_equal(render(index)[:, :, ::-1], SAMPLE.images[one.source[index]])


def test_held_shows_one_image_shifted_and_with_noise() -> None:
    one = plan("held", 2, 200)
    assert set(np.unique(one.offset)) == {-2, -1, 0, 1, 2}
    render = streams.renderer(one, SAMPLE.images)
    for index in range(50):
        right, down = one.offset[index].astype(int)
        image = SAMPLE.images[one.source[index]][:, :, ::-1].astype(float)
        # Undo the shift, away from the mirrored edge.
        restored = np.roll(render(index).astype(float), (-down, -right), (0, 1))[2:-2, 2:-2]
        middle = (image > 20) & (image < 235)
        error = (restored - image[2:-2, 2:-2])[middle[2:-2, 2:-2]]
        assert error.size < 300 or (abs(error.mean()) < 1.5 and 2.8 < error.std() < 4.2)


def test_the_centre_crop_of_a_camera_frame_restores_the_image() -> None:
    one = plan("camera", 2, 300)
    still = dataclasses.replace(one, offset=np.zeros_like(one.offset))
    render = streams.renderer(still, SAMPLE.images)
    psnr = [
        cv2.PSNR(crop(render(int(i)), CROP), np.ascontiguousarray(SAMPLE.images[still.source[i]][:, :, ::-1]))
        for i in np.flatnonzero(object_changes(still))
    ]
    assert render(0).shape == (480, 640, 3)
    assert np.mean(psnr) > 36 and min(psnr) > 29


def test_camera_pauses_differ_by_noise_only() -> None:
    one = plan("camera", 2, 300)
    render = streams.renderer(one, SAMPLE.images)
    still = np.flatnonzero(one.pause & ~object_changes(one))
    assert np.array_equal(one.offset[still], one.offset[still - 1])
    moving = np.flatnonzero(~one.pause & ~object_changes(one))
    steps = np.abs(np.diff(one.offset, axis=0))[moving - 1]
    assert steps.mean() > 0 and steps.max() < 1 and np.abs(one.offset).max() <= 24
    for index in still[:5]:
        before, after = render(int(index) - 1).astype(int), render(int(index)).astype(int)
        inner = (before > 20) & (before < 235)
        difference = (after - before)[inner]
        assert difference.std() == pytest.approx(3.5 * np.sqrt(2), rel=0.05) and abs(difference.mean()) < 0.1


def test_a_new_object_changes_the_centre_and_a_new_scene_the_background() -> None:
    one = plan("camera", 2, 1500)
    render = streams.renderer(one, SAMPLE.images)
    cuts = np.flatnonzero(object_changes(one))[1:]
    for index in [*cuts[:6], *np.flatnonzero(np.diff(one.scene)) + 1]:
        change = np.abs(render(int(index)).astype(int) - render(int(index) - 1))
        assert change[:, 80:560].mean() > 20
        assert (change[:, :80].mean() > 15) == (one.scene[index] != one.scene[index - 1])


def test_rendering_a_frame_does_not_depend_on_earlier_frames() -> None:
    for name in ("held", "camera"):
        one = plan(name, 4, 100)
        forward = streams.renderer(one, SAMPLE.images)
        frames = {index: forward(index) for index in (0, 40, 99)}
        backward = streams.renderer(one, SAMPLE.images)
        assert all(np.array_equal(backward(index), frames[index]) for index in (99, 0, 40))


def test_noise_has_its_sigma_and_windows_are_uncorrelated() -> None:
    sensor = camera.SensorNoise(100, 100, 3.5, 0)
    grey = np.full((100, 100, 3), 128, np.uint8)
    one, other = (sensor.add(grey, seed).astype(float) - 128 for seed in (0, 257))
    assert one.std() == pytest.approx(3.5, rel=0.03) and abs(one.mean()) < 0.1
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03


def test_backgrounds_differ_and_have_texture() -> None:
    backgrounds = [camera.background(0, scene) for scene in range(12)]
    for number, background in enumerate(backgrounds):
        assert background[:, :80].std() > 15 and background[:, 560:].std() > 15
        assert all(np.abs(background.astype(int) - other).mean() > 15 for other in backgrounds[:number])


@pytest.mark.parametrize("name", ["dwell", "camera"])
def test_a_recorded_stream_is_read_back(name: streams.StreamName, tmp_path: Path) -> None:
    one = plan(name, 6, 12)
    done: list[int] = []
    written = streams.record_stream(one, SAMPLE.images, tmp_path, LABELS, done.append)
    assert done == list(range(1, 13))
    recording = stream.read(tmp_path)
    assert recording == written and recording.truth == tuple(one.label) and recording.labels == LABELS
    render = streams.renderer(one, SAMPLE.images)
    for index in range(12):
        difference = np.abs(stream.picture(tmp_path, recording, index).astype(int) - render(index))
        assert difference.mean() < (4 if name == "camera" else 1e-9)
