"""Pictures: decoding that nothing can hurt, and preprocessing that equals a plain reading of its definition."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared import image
from shared.image import BadPicture, Input, Picture

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)

sides = st.integers(1, 40)
thumbnails = st.tuples(sides, sides).flatmap(lambda size: hnp.arrays(np.uint8, (*size, 3)))


def photograph(height: int, width: int, seed: int = 0) -> Picture:
    """Smooth noise: as hard to compress as a photograph is."""
    rough = np.random.default_rng(seed).integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def compressed(extension: str, height: int = 60, width: int = 80) -> bytes:
    done, data = cv2.imencode(extension, photograph(height, width))
    assert done
    return data.tobytes()


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG whose header says what we like."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A real JPEG whose frame header is made to say what we like."""
    data = bytearray(compressed(".jpg"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@given(thumbnails)
def test_a_thumbnail_crosses_the_wire_without_loss(picture: Picture) -> None:
    content, data = image.encode(picture)
    assert content == "image/png"
    assert np.array_equal(image.decode(data), picture)


def test_a_larger_picture_crosses_the_wire_as_a_good_jpeg() -> None:
    picture = photograph(224, 224)
    content, data = image.encode(picture)
    assert content == "image/jpeg"
    assert np.abs(image.decode(data).astype(int) - picture).mean() < 3


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([".png", ".jpg"]))
@settings(max_examples=30)
def test_the_header_says_what_the_decoder_finds(height: int, width: int, extension: str) -> None:
    data = compressed(extension, height, width)
    assert image.dimensions(data) == (width, height)
    assert image.decode(data).shape == (height, width, 3)


def test_grey_progressive_and_padded_jpegs_are_pictures_too() -> None:
    done, grey = cv2.imencode(".jpg", photograph(30, 40)[:, :, 0])
    assert done
    assert image.decode(grey.tobytes()).shape == (30, 40, 3)
    done, progressive = cv2.imencode(".jpg", photograph(30, 40), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    assert image.decode(progressive.tobytes()).shape == (30, 40, 3)
    padded = compressed(".jpg")
    assert image.decode(padded[:2] + b"\xff\xff" + padded[2:]).shape == (60, 80, 3)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_picture_is_refused(extension: str, share: float) -> None:
    data = compressed(extension)
    with pytest.raises(BadPicture):
        image.decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(png(10_000, 10_000, zlib.compress(bytes(10**6))), id="100-megapixel PNG"),
        pytest.param(png(2**31 - 1, 2**31 - 1), id="PNG of the largest size"),
        pytest.param(jpeg(10_000, 10_000), id="100-megapixel JPEG"),
        pytest.param(jpeg(65_535, 65_535), id="JPEG of the largest size"),
    ],
)
def test_a_bomb_is_refused_by_its_header(bomb: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the decoder was reached"))
    with pytest.raises(BadPicture, match="allowed"):
        image.decode(bomb)


# Bytes that the decoder skips and a careless reader takes for a segment, which hides the real frame header from it.
@pytest.mark.parametrize("cover", [b"\xff\xff", b"\xff\x01", b"\xff\xd0", b"\xff\x00", b"\xff\xe0\x00\x00"])
def test_a_bomb_cannot_hide_its_size(cover: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[bytes] = []
    monkeypatch.setattr(cv2, "imdecode", lambda *_: reached.append(b""))
    bomb = jpeg(10_000, 10_000)
    start = bomb.index(b"\xff\xc0")
    frame_header = bomb[start:]
    # What stands after the cover is read as a length by one who is fooled, and a small size waits behind it.
    length = int.from_bytes(frame_header[:2], "big")
    decoy = b"\xff\xc0\x00\x11\x08\x00\x08\x00\x08"
    hidden = b"\xff\xd8" + cover + frame_header
    hidden = hidden.ljust(2 + len(cover) + length, b"\x00") + decoy * 20 + b"\xff\xd9"
    with pytest.raises(BadPicture):
        image.decode(hidden)
    assert not reached


@pytest.mark.parametrize("size", [(0, 0), (0, 8), (8, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadPicture):
        image.decode(png(*size))
    with pytest.raises(BadPicture):
        image.decode(jpeg(*size))


@given(st.binary(max_size=400), st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", png(8, 8)[:33]]))
@example(b"", b"")
def test_random_bytes_are_refused(data: bytes, start: bytes) -> None:
    with pytest.raises(BadPicture):
        image.decode(start + data)


@given(st.sampled_from([".png", ".jpg"]), st.data())
@settings(max_examples=150)
def test_a_damaged_picture_is_refused_or_one_of_its_size(extension: str, data: st.DataObject) -> None:
    damaged = bytearray(compressed(extension))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        picture = image.decode(bytes(damaged))
    except BadPicture:
        return
    width, height = image.dimensions(bytes(damaged))
    assert picture.shape == (height, width, 3)


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
def test_preprocessing_is_what_its_definition_says(picture: Picture) -> None:
    spec = Input(8, MEAN, STD)
    tensor = image.preprocessor(spec)(image.crop(picture, spec))
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    np.testing.assert_allclose(tensor, reference_tensor(picture, spec), atol=1e-5)


def test_preprocessing_gives_a_tensor_of_its_own_every_time() -> None:
    preprocess = image.preprocessor(Input(8, MEAN, STD))
    one = preprocess(photograph(8, 8, 1))
    kept = one.copy()
    preprocess(photograph(8, 8, 2))
    assert np.array_equal(one, kept)


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
def test_any_picture_can_be_cropped_and_only_once(
    height: int, width: int, side: int, share: float, scaling: str
) -> None:
    """The server crops what a device sends, which the device has cropped already."""
    spec = Input(side, MEAN, STD, share, scaling)  # type: ignore[arg-type]
    once = image.crop(photograph(height, width), spec)
    assert once.shape == (side, side, 3)
    assert np.array_equal(image.crop(once, spec), once)


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_region_is_never_empty_and_lies_where_it_should(
    width: int, height: int, left: float, top: float, share: float, depth: float
) -> None:
    picture = np.arange(width * height * 3, dtype=np.int64).reshape(height, width, 3)
    part = image.cut(picture, (left, top, share * (1 - left), depth * (1 - top)))  # type: ignore[arg-type]
    assert part.size > 0
    assert part[0, 0, 0] == picture[min(height - 1, round(top * height)), min(width - 1, round(left * width)), 0]
    whole = image.cut(picture, (0.0, 0.0, 1.0, 1.0))  # type: ignore[arg-type]
    assert np.array_equal(whole, picture)
