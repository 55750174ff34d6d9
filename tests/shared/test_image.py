"""Pictures: what crosses the wire, and preprocessing that equals a plain reading of its definition."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cachenet.shared.inference import image
from cachenet.shared.inference.image import Input, Picture
from cachenet.shared.media import pictures

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)

sides = st.integers(1, 40)
thumbnails = st.tuples(sides, sides).flatmap(lambda size: hnp.arrays(np.uint8, (*size, 3)))


def photograph(height: int, width: int, seed: int = 0) -> Picture:
    """Smooth noise: as hard to compress as a photograph is."""
    rough = np.random.default_rng(seed).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


@given(thumbnails)
def test_a_thumbnail_is_encoded_without_loss(picture: Picture) -> None:
    content, data = image.encode(picture)
    assert content == "image/png"
    assert np.array_equal(pictures.decode(data), picture)


def test_a_larger_picture_is_encoded_as_a_good_jpeg() -> None:
    picture = photograph(224, 224)
    content, data = image.encode(picture)
    assert content == "image/jpeg"
    assert np.abs(pictures.decode(data).astype(int) - picture).mean() < 3


def reference_tensor(picture: Picture, spec: Input) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The definition of ``Input``, read aloud, for a picture already at the model's size."""
    tensor = np.zeros((1, 3, spec.side, spec.side))
    for channel in range(3):
        for row in range(spec.side):
            for column in range(spec.side):
                value = picture[row, column, 2 - channel]
                tensor[0, channel, row, column] = (value - spec.mean[channel]) / spec.std[channel]
    return tensor


@given(hnp.arrays(np.uint8, (8, 8, 3)))
@settings(max_examples=20)
def test_preprocessing_follows_its_definition(picture: Picture) -> None:
    spec = Input(8, MEAN, STD)
    tensor = image.preprocessor(spec)(image.crop(picture, spec))
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    np.testing.assert_allclose(tensor, reference_tensor(picture, spec), atol=1e-5)


def test_preprocessing_returns_a_new_tensor_each_time() -> None:
    preprocess = image.preprocessor(Input(8, MEAN, STD))
    one = preprocess(photograph(8, 8, 1))
    before = one.copy()
    preprocess(photograph(8, 8, 2))
    assert np.array_equal(one, before)


def test_cropping_averages_the_centre_square() -> None:
    picture = photograph(48, 64)
    square = picture[:, 8:56].astype(float)
    averaged = square.reshape(16, 3, 16, 3, 3).mean((1, 3))
    cropped = image.crop(picture, Input(16, MEAN, STD))
    assert np.abs(cropped - averaged).max() <= 0.51


def test_cropping_takes_its_share_of_the_short_side() -> None:
    picture = np.zeros((80, 120, 3), np.uint8)
    picture[20:60, 40:80] = 255
    assert (image.crop(picture, Input(10, MEAN, STD, crop=0.5)) == 255).all()


@given(sides, sides, sides, st.floats(0.05, 1.0), st.sampled_from(["area", "cubic"]))
def test_any_picture_can_be_cropped_and_cropping_is_idempotent(
    height: int, width: int, side: int, share: float, scaling: str
) -> None:
    """The server crops what a device sends, which the device has cropped already."""
    spec = Input(side, MEAN, STD, share, scaling)  # type: ignore[arg-type]
    once = image.crop(photograph(height, width), spec)
    assert once.shape == (side, side, 3)
    assert np.array_equal(image.crop(once, spec), once)


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_region_is_never_empty_and_is_in_its_place(
    width: int, height: int, left: float, top: float, share: float, depth: float
) -> None:
    picture = np.arange(width * height * 3, dtype=np.int64).reshape(height, width, 3)
    part = image.cut(picture, (left, top, share * (1 - left), depth * (1 - top)))  # type: ignore[arg-type]
    assert part.size > 0
    assert part[0, 0, 0] == picture[min(height - 1, round(top * height)), min(width - 1, round(left * width)), 0]
    whole = image.cut(picture, (0.0, 0.0, 1.0, 1.0))  # type: ignore[arg-type]
    assert np.array_equal(whole, picture)
