"""A detector's boxes are shares of the whole picture, whatever part the model sees and however it is scaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.detect.detections import MAX_DETECTIONS
from cachenet.shared.inference.decoders import Decoder
from cachenet.shared.inference.detector import Detector, in_whole_picture
from cachenet.shared.inference.engine import EngineError
from cachenet.shared.inference.image import Input, Picture, Tensor, window, wire_picture

Fit = Literal["crop", "stretch", "letterbox", "corner"]
fits = st.sampled_from(["crop", "stretch", "letterbox", "corner"])
SSD = Decoder("ssd", (0,))


def spec_of(fit: Fit, crop: float = 1.0, width: int = 96, height: int = 64) -> Input:
    return Input(width, (0, 0, 0), (1, 1, 1), crop, "area", fit, fill=20, height=height)


def bright(tensor: Tensor) -> Sequence[npt.NDArray[np.float32]]:
    """A network that finds one object: the pixels over half of the brightness."""
    found = tensor[0].mean(0) > 127
    if not found.any():
        return [np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.float32)]
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / np.array(found.shape[::-1] * 2)
    return [box[None].astype(np.float32), np.zeros(1, np.float32), np.ones(1, np.float32)]


def with_object(size: tuple[int, int], box: npt.NDArray[np.int64]) -> Picture:
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    picture[box[1] : box[3], box[0] : box[2]] = 255
    return picture


@given(
    st.integers(100, 400),
    st.integers(100, 400),
    st.lists(st.floats(0.3, 0.7), min_size=4, max_size=4),
    fits,
    st.sampled_from([1.0, 0.9]),
)
def test_a_box_is_where_the_object_is_in_the_picture(
    wide: int, high: int, shares: list[float], fit: Fit, crop: float
) -> None:
    size = (wide, high)
    spec = spec_of(fit, crop if fit in ("crop", "stretch") else 1.0)
    x, y = sorted(shares[:2]), sorted(shares[2:])
    box = np.array([x[0] * wide, y[0] * high, x[1] * wide + 20, y[1] * high + 20]).astype(np.int64)
    left, top, columns, rows = window(size, spec)
    inside = np.clip(box, [left, top] * 2, [left + columns, top + rows] * 2)
    if (inside[2:] - inside[:2] < 8).any():
        return  # the model does not see it
    picture, expected = with_object(size, box), inside / np.array([*size, *size])
    found = Detector(bright, spec, SSD)(picture)
    assert len(found) == 1
    # To a pixel of the input on each side.
    pixel = 1.2 / np.array([96 * wide / columns, 64 * high / rows] * 2)
    if fit in ("letterbox", "corner"):
        pixel = 1.2 / np.array([*wire_picture(picture, spec).shape[1::-1]] * 2)
    assert (np.abs(found.boxes[0] - expected) <= pixel).all()
    # What a server finds in what a device sends is the same.
    sent = Detector(bright, spec, SSD)(wire_picture(picture, spec))
    np.testing.assert_allclose(in_whole_picture(sent, size, spec).boxes, found.boxes, atol=1e-6)


def test_boxes_in_the_bars_are_dropped() -> None:
    def everywhere(_: Tensor) -> Sequence[npt.NDArray[np.float32]]:
        boxes = np.float32([[0, 0, 0.5, 0.2], [0.2, 0.4, 0.6, 0.6], [0.2, 0.9, 0.4, 1.0]])
        return [boxes, np.zeros(3, np.float32), np.ones(3, np.float32)]

    picture = np.zeros((20, 90, 3), np.uint8)  # its bars are a third of the input each
    found = Detector(everywhere, spec_of("letterbox", width=90, height=60), SSD)(picture)
    assert len(found) == 1
    np.testing.assert_allclose(found.boxes[0], [0.2, 0.2, 0.6, 0.8], atol=1e-6)


def test_an_empty_picture_has_no_detections() -> None:
    assert not len(Detector(bright, spec_of("stretch"), SSD)(np.zeros((50, 70, 3), np.uint8)))


def boxes_of(*rows: Sequence[float]) -> Detector:
    """A detector that always gives these boxes with label and score."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detector(lambda _: [table[:, :4], table[:, 4], table[:, 5]], spec_of("stretch"), Decoder("ssd", (0, 1)))


def test_of_boxes_of_one_object_the_surest_is_left() -> None:
    near = [0.1, 0.1, 0.5, 0.5], [0.11, 0.1, 0.5, 0.5]
    found = boxes_of([*near[0], 0, 0.8], [*near[1], 0, 0.9], [*near[0], 1, 0.7])(np.zeros((9, 9, 3), np.uint8))
    assert found.labels.tolist() == [0, 1]
    np.testing.assert_allclose(found.scores, [0.9, 0.7])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -5.0, 7.0])
def test_boxes_that_are_none_do_not_reach_the_caller(bad: float) -> None:
    good = [0.1, 0.1, 0.5, 0.5, 0, 0.9]
    rows = [[*good[:column], bad, *good[column + 1 :]] for column in range(6)]
    found = boxes_of(good, *rows)(np.zeros((9, 9, 3), np.uint8))
    assert len(found) >= 1
    assert ((found.boxes >= 0) & (found.boxes <= 1)).all() and (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert ((found.scores > 0) & (found.scores <= 1)).all()


def test_ten_thousand_boxes_are_the_most_detections() -> None:
    rng = np.random.default_rng(0)
    corners = rng.random((10_000, 2)) * 0.99
    rows = np.concatenate([corners, corners + 0.005, np.zeros((10_000, 1)), rng.uniform(0.5, 1, (10_000, 1))], 1)
    found = boxes_of(*rows.tolist())(np.zeros((9, 9, 3), np.uint8))
    assert len(found) == MAX_DETECTIONS
    assert (np.diff(found.scores) <= 0).all()


def test_outputs_of_another_decoder_are_an_error_of_the_engine() -> None:
    wrong = Detector(lambda _: [np.zeros((1, 7, 9), np.float32)], spec_of("stretch"), Decoder("nanodet", (0,)))
    with pytest.raises(EngineError, match="outputs of 1 x 7 x 9 do not fit the decoder nanodet"):
        wrong(np.zeros((9, 9, 3), np.uint8))
