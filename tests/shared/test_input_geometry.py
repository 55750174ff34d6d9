"""How a frame becomes a model's input: the geometry of each fit, the order of colours, and that old ones stay."""

from __future__ import annotations

from typing import Literal

import cv2
import msgspec
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cachenet.shared.inference import image
from cachenet.shared.inference.image import Input, Picture

MEAN, STD = (10.0, 20.0, 30.0), (2.0, 3.0, 4.0)
sides = st.integers(1, 70)
Fit = Literal["crop", "stretch", "letterbox", "corner"]
fits = st.sampled_from(["crop", "stretch", "letterbox", "corner"])
scalings = st.sampled_from(["area", "linear", "cubic"])


def slope(height: int, width: int) -> Picture:
    """Blue is how far right a pixel is, green how far down, in 0..240; red is full."""
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[:, :, 0] = (240 * (np.arange(width) + 0.5) / width)[None]
    picture[:, :, 1] = (240 * (np.arange(height) + 0.5) / height)[:, None]
    return picture


@given(sides, sides, sides, sides, st.floats(0.05, 1.0), fits, scalings)
@settings(max_examples=150)
def test_any_frame_is_cropped_to_the_models_size_once(
    high: int, wide: int, height: int, width: int, share: float, fit: Fit, scaling: Literal["area", "linear", "cubic"]
) -> None:
    """A device cuts, and a server cuts what the device sends."""
    spec = Input(width, MEAN, STD, share, scaling, fit, height=height)
    once = image.crop(slope(high, wide), spec)
    assert once.shape == (height, width, 3)
    assert once.dtype == np.uint8
    assert image.crop(once, spec) is once
    tensor = image.preprocessor(spec)(once)
    assert tensor.shape == image.blank(spec).shape == (1, 3, height, width)


@given(st.integers(30, 90), st.integers(30, 90), st.integers(12, 40), st.integers(12, 40), st.floats(0.4, 1.0))
@settings(max_examples=60)
def test_each_fit_uses_its_part_of_the_frame(high: int, wide: int, height: int, width: int, share: float) -> None:
    """How much of the frame's width and height is cropped, and that the middle is."""
    assume((high, wide) != (height, width))

    def cropped(fit: Fit, crop: float) -> tuple[Picture, tuple[float, float]]:
        spec = Input(width, MEAN, STD, crop, fit=fit, height=height)
        picture = image.crop(slope(high, wide), spec).astype(float)
        inside = picture[:, :, 2] > 128  # not a bar
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        part = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        across = (part[:, -1, 0].mean() - part[:, 0, 0].mean()) / 240
        down = (part[-1, :, 1].mean() - part[0, :, 1].mean()) / 240
        # Of n pixels in a row the first and the last are (n - 1) / n of the whole apart.
        scale = part.shape[1] / max(1, part.shape[1] - 1), part.shape[0] / max(1, part.shape[0] - 1)
        return part.astype(np.uint8), (across * scale[0], down * scale[1])

    near = 0.12
    for fit in ("stretch", "letterbox", "corner"):
        part, (across, down) = cropped(fit, share)
        assert abs(across - share) < near and abs(down - share) < near
        middle = part[part.shape[0] // 2, part.shape[1] // 2].astype(float) / 240
        # Of an even number of pixels none is in the middle.
        half_x, half_y = 0.5 / part.shape[1], 0.5 / part.shape[0]
        assert abs(middle[0] - 0.5) < near + half_x and abs(middle[1] - 0.5) < near + half_y
    boxed, _ = cropped("letterbox", 1.0)
    # It has the frame's aspect ratio, to a pixel, and touches two edges.
    assert abs(boxed.shape[1] * high - boxed.shape[0] * wide) <= max(high, wide)
    assert boxed.shape[1] == width or boxed.shape[0] == height
    _, (across, down) = cropped("crop", share)
    assert abs(across - share * min(1.0, high * width / height / wide)) < near
    assert abs(down - share * min(1.0, wide * height / width / high)) < near


def test_bars_have_the_fill_level() -> None:
    boxed = image.crop(np.full((10, 40, 3), 255, np.uint8), Input(20, MEAN, STD, fit="letterbox", fill=114))
    assert (boxed[:7] == 114).all() and (boxed[13:] == 114).all()
    assert (boxed[8:12] == 255).all()


def test_the_frame_in_a_corner_is_at_the_top_left() -> None:
    wide = image.crop(np.full((10, 40, 3), 255, np.uint8), Input(20, MEAN, STD, fit="corner", fill=114))
    assert (wide[:5] == 255).all() and (wide[5:] == 114).all()
    tall = image.crop(np.full((40, 10, 3), 255, np.uint8), Input(20, MEAN, STD, fit="corner", fill=114))
    assert (tall[:, :5] == 255).all() and (tall[:, 5:] == 114).all()


@given(st.integers(1, 400), st.integers(1, 400), sides, sides, fits, scalings)
@settings(max_examples=200)
def test_what_a_device_sends_gives_the_same_input_as_the_frame(
    high: int, wide: int, height: int, width: int, fit: Fit, scaling: Literal["area", "linear", "cubic"]
) -> None:
    spec = Input(width, MEAN, STD, 1.0, scaling, fit, fill=7, height=height)
    picture = slope(high, wide)
    sent = image.wire_picture(picture, spec)
    assert sent.shape[0] <= height and sent.shape[1] <= width
    assert sent.shape[:2] == (height, width) or fit in ("letterbox", "corner")
    assert not (sent == 7).all(2).any(), "no bars"
    np.testing.assert_array_equal(image.crop(sent, spec), image.crop(picture, spec))


@given(st.integers(1, 90), st.integers(1, 90), sides, st.floats(0.05, 1.0), st.sampled_from(["area", "cubic"]))
def test_input_of_square_models_is_unchanged(
    high: int, wide: int, side: int, share: float, scaling: Literal["area", "cubic"]
) -> None:
    """To the bit: what was proven of a bundle was proven of these pictures."""
    picture = slope(high, wide)
    expected = picture
    if not high == wide == side:
        edge = max(1, round(min(high, wide) * share))
        top, left = (high - edge) // 2, (wide - edge) // 2
        method = cv2.INTER_AREA if scaling == "area" and edge >= side else cv2.INTER_CUBIC
        expected = cv2.resize(picture[top : top + edge, left : left + edge], (side, side), interpolation=method)  # type: ignore[assignment]
    assert np.array_equal(image.crop(picture, Input(side, MEAN, STD, share, scaling)), expected)


@given(sides, sides)
def test_colours_and_means_are_in_the_models_order(height: int, width: int) -> None:
    picture = slope(height, width)
    as_rgb = image.preprocessor(Input(width, MEAN, STD, height=height))(picture)
    as_bgr = image.preprocessor(Input(width, MEAN[::-1], STD[::-1], height=height, colour="bgr"))(picture)
    np.testing.assert_array_equal(as_bgr, as_rgb[:, ::-1])
    grey = image.preprocessor(Input(width, MEAN, STD, height=height, colour="grey"))(picture)
    assert grey.shape == image.blank(Input(width, MEAN, STD, height=height, colour="grey")).shape
    weighed = picture.astype(float) @ [0.114, 0.587, 0.299]
    np.testing.assert_allclose(grey[0, 0], (weighed - 20) / 3, atol=0.2)


def test_the_manifest_of_a_plain_input_is_unchanged() -> None:
    """So that a device of an earlier version reads it."""
    plain = Input(32, MEAN, STD, 0.5, "cubic")
    data = msgspec.json.encode(plain)
    assert set(msgspec.json.decode(data)) == {"side", "mean", "std", "crop", "scaling"}
    for spec in (plain, Input(80, MEAN, STD, fit="letterbox", colour="bgr", fill=9, height=48)):
        assert msgspec.json.decode(msgspec.json.encode(spec), type=Input) == spec
