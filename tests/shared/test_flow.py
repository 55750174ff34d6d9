"""Motion in a stream: changed cells, and optical flow inside boxes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachenet.shared.inference.image import Picture
from cachenet.shared.media.flow import CELLS, MotionDetector

#: Width and height of the pictures, pixels; the grey picture has the same size.
_WIDTH, _HEIGHT = 384, 288


def _texture(height: int, width: int, seed: int) -> Picture:
    """Soft blots, as a camera shows surfaces."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    soft = cv2.equalizeHist(cv2.GaussianBlur(noise, (0, 0), 3))
    return cv2.cvtColor(cv2.GaussianBlur(soft, (0, 0), 1), cv2.COLOR_GRAY2BGR)  # type: ignore[return-value]


_GROUND, _THING = _texture(_HEIGHT, _WIDTH, 0) // 2 + 40, _texture(80, 60, 1)


def _scene(left: float, top: float) -> Picture:
    """A thing of 60 x 80 pixels before a ground."""
    picture = _GROUND.copy()
    to = np.array([[1, 0, left], [0, 1, top]], np.float32)
    cv2.warpAffine(_THING, to, (_WIDTH, _HEIGHT), dst=picture, borderMode=cv2.BORDER_TRANSPARENT)
    return picture


def _box(left: float, top: float) -> list[float]:
    return [left / _WIDTH, top / _HEIGHT, (left + 60) / _WIDTH, (top + 80) / _HEIGHT]


def _noisy(picture: Picture, deviation: float, seed: int) -> Picture:
    noise = np.random.default_rng(seed).normal(0.0, deviation, picture.shape)
    noisy: Picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    return noisy


@given(st.floats(-10, 10), st.floats(-10, 10))
@example(0.0, 0.5)
def test_a_thing_that_moves_is_followed_and_a_still_one_stays(across: float, down: float) -> None:
    motion = MotionDetector()
    motion.update(_scene(80, 100))
    _, flow = motion.update(_scene(80 + across, 100 + down))
    assert flow is not None
    found = flow(np.array([_box(80, 100), _box(260, 150)], np.float32))
    pixels = found.shifts * [_WIDTH, _HEIGHT]
    assert pixels[0] == pytest.approx([across, down], abs=0.4)
    assert found.consistency[0] > 0.4
    assert (pixels[1] == 0).all() and found.consistency[1] == 1


def test_the_order_of_boxes_changes_nothing() -> None:
    motion = MotionDetector()
    motion.update(_scene(80, 100))
    _, flow = motion.update(_scene(84, 101))
    assert flow is not None
    boxes = np.array([_box(80, 100), _box(75, 90), _box(260, 150), _box(100, 120)], np.float32)
    forward, backward = flow(boxes), flow(boxes[::-1])
    np.testing.assert_array_equal(forward.shifts, backward.shifts[::-1])
    np.testing.assert_array_equal(forward.consistency, backward.consistency[::-1])
    assert len(flow(boxes[:0]).shifts) == 0


@pytest.mark.parametrize("deviation", [0.0, 2.0, 5.0])
def test_sensor_noise_is_no_motion_and_a_small_thing_in_it_is(deviation: float) -> None:
    motion = MotionDetector()
    motion.update(_noisy(_GROUND, deviation, 1))
    still, _ = motion.update(_noisy(_GROUND, deviation, 2))
    entered = _GROUND.copy()
    entered[100:120, 200:210] = 255
    moved, _ = motion.update(_noisy(entered, deviation, 3))
    assert not still.any()
    rows, columns = np.nonzero(moved)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 9, 16, 17)


@pytest.mark.parametrize("change", [-20, -1, 8, 40])
def test_another_exposure_is_no_motion(change: int) -> None:
    motion = MotionDetector()
    motion.update(_GROUND)
    moved, _ = motion.update(np.clip(_GROUND.astype(int) + change, 0, 255).astype(np.uint8))
    assert not moved.any()


def test_a_camera_that_turns_moves_every_textured_part() -> None:
    motion = MotionDetector()
    motion.update(_texture(_HEIGHT, _WIDTH + 8, 0)[:, :-8])
    moved, flow = motion.update(_texture(_HEIGHT, _WIDTH + 8, 0)[:, 8:])
    assert moved.mean() > 0.95 and flow is not None
    assert flow(np.array([[0.3, 0.3, 0.5, 0.6]], np.float32)).shifts[0, 0] * _WIDTH == pytest.approx(-8, abs=0.3)


def test_without_texture_or_outside_the_picture_no_motion_is_claimed() -> None:
    motion = MotionDetector()
    motion.update(np.full((_HEIGHT, _WIDTH, 3), 20, np.uint8))
    _, flow = motion.update(np.full((_HEIGHT, _WIDTH, 3), 200, np.uint8))
    assert flow is not None
    flow.moved[:] = True  # type: ignore[attr-defined]
    found = flow(np.array([[0.2, 0.2, 0.4, 0.5], [1.2, 0.2, 1.4, 0.5], [-0.5, -0.5, -0.2, -0.1]], np.float32))
    assert (found.shifts == 0).all() and (found.consistency == 0).all()


def test_the_first_picture_and_another_resolution_have_no_motion() -> None:
    motion = MotionDetector()
    moved, flow = motion.update(_GROUND)
    assert moved.all() and moved.shape == CELLS and flow is None
    moved, flow = motion.update(_GROUND[:200])
    assert moved.all() and flow is not None
    found = flow(np.array([[0.2, 0.2, 0.4, 0.5]], np.float32))
    assert (found.shifts == 0).all() and (found.consistency == 0).all()


@given(st.integers(1, 900), st.integers(1, 900))
@example(1, 1)
@example(1, 900)
def test_pictures_of_any_size_have_motion(height: int, width: int) -> None:
    motion = MotionDetector()
    motion.update(np.zeros((height, width, 3), np.uint8))
    moved, flow = motion.update(np.full((height, width, 3), 255, np.uint8))
    assert moved.shape == CELLS and flow is not None
    assert flow(np.array([[0.0, 0.0, 1.0, 1.0]], np.float32)).shifts.shape == (1, 2)


def test_a_flow_holds_two_small_grey_pictures_and_not_the_picture() -> None:
    motion = MotionDetector()
    motion.update(np.zeros((1080, 1920, 3), np.uint8))
    _, first = motion.update(np.zeros((1080, 1920, 3), np.uint8))
    _, second = motion.update(np.zeros((1080, 1920, 3), np.uint8))
    held = [first.before, first.grey, second.before, second.grey]  # type: ignore[union-attr]
    assert all(grey.base is None and grey.nbytes == 384 * 216 for grey in held)
    assert first.grey is second.before  # type: ignore[union-attr]
