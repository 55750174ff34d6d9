"""Pictures: bounded decoding, encoding, and the one way from a camera frame to a model's input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

#: ``(height, width, 3)`` uint8, BGR as OpenCV has it.
Picture = npt.NDArray[np.uint8]
#: ``(1, 3, side, side)`` float32, normalised RGB.
Tensor = npt.NDArray[np.float32]
#: Left, top, width and height, as shares of the picture.
Region = tuple[float, float, float, float]

#: Largest picture that is decoded, in pixels: a compressed bomb is refused by its header.
MAX_PIXELS = 16_000_000


class BadPicture(ValueError):
    """Bytes that are no picture, or one too large; the text is fit for a refusal."""


_Deviation = Annotated[float, msgspec.Meta(gt=0)]


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model expects to see: the centre square of the frame, ``crop`` of its short side, scaled to ``side``
    pixels, RGB, ``(x - mean) / std`` with x in 0..255, ``(1, 3, side, side)``."""

    side: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    mean: tuple[float, float, float]
    std: tuple[_Deviation, _Deviation, _Deviation]
    crop: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    scaling: Literal["area", "cubic"] = "area"


def cut(picture: Picture, region: Region) -> Picture:
    """That part of ``picture``; a pixel at least. No copy."""
    height, width = picture.shape[:2]
    left, top = min(width - 1, round(region[0] * width)), min(height - 1, round(region[1] * height))
    right, bottom = round((region[0] + region[2]) * width), round((region[1] + region[3]) * height)
    return picture[top : max(top + 1, bottom), left : max(left + 1, right)]


def crop(picture: Picture, spec: Input) -> Picture:
    """The part of ``picture`` that a model sees, at the model's size: ``(side, side, 3)`` BGR."""
    height, width = picture.shape[:2]
    if height == width == spec.side:
        return picture
    side = max(1, round(min(height, width) * spec.crop))
    top, left = (height - side) // 2, (width - side) // 2
    # Area averaging is the right filter when shrinking and nearest-neighbour when growing, so growing is cubic.
    method = cv2.INTER_AREA if spec.scaling == "area" and side >= spec.side else cv2.INTER_CUBIC
    window = picture[top : top + side, left : left + side]
    return cv2.resize(window, (spec.side, spec.side), interpolation=method)  # type: ignore[return-value]


def preprocessor(spec: Input) -> Callable[[Picture], Tensor]:
    """The way from what ``crop`` gives to the tensor a model takes, with its constants worked out once."""
    gain = (1.0 / np.array(spec.std, np.float32)).reshape(3, 1, 1)
    offset = (-np.array(spec.mean, np.float32)).reshape(3, 1, 1) * gain

    def preprocess(cropped: Picture) -> Tensor:
        tensor = np.empty((1, 3, spec.side, spec.side), np.float32)
        np.multiply(cropped[:, :, ::-1].transpose(2, 0, 1), gain, out=tensor[0])
        tensor += offset
        return tensor

    return preprocess


def encode(picture: Picture) -> tuple[Literal["image/png", "image/jpeg"], bytes]:
    """Compress a model-size picture for the wire: PNG for thumbnails, where JPEG's blocks would cost accuracy and
    save nothing, JPEG of quality 92 above."""
    small = picture.shape[0] * picture.shape[1] <= 64 * 64
    if small:
        done, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    else:
        done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    if not done:
        raise BadPicture("picture could not be encoded")
    return ("image/png" if small else "image/jpeg"), data.tobytes()


def decode(data: bytes) -> Picture:
    """Decode a PNG or JPEG. Raises ``BadPicture``; never allocates for more than ``MAX_PIXELS``."""
    width, height = dimensions(data)
    if width * height > MAX_PIXELS:
        raise BadPicture(f"picture of {width}x{height} pixels, {MAX_PIXELS} allowed")
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        picture = None
    if picture is None:
        raise BadPicture("picture is damaged")
    return picture  # type: ignore[return-value]


def dimensions(data: bytes) -> tuple[int, int]:
    """Width and height from the header of a PNG or JPEG, without decoding. Raises ``BadPicture``."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        if not data.rstrip(b"\0").endswith(b"IEND\xaeB`\x82"):
            raise BadPicture("PNG is truncated")
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data[:2] == b"\xff\xd8":
        # OpenCV decodes half a JPEG to half a picture and grey; we would rather be told.
        if b"\xff\xd9" not in data[-64:]:
            raise BadPicture("JPEG is truncated")
        return _jpeg_dimensions(data)
    raise BadPicture("neither PNG nor JPEG")


def _jpeg_dimensions(data: bytes) -> tuple[int, int]:
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        # Anything but a plain segment here and the decoder, which forgives more, might find another size than we do.
        if marker < 0xC0 or 0xD0 <= marker <= 0xDA or length < 2:
            break
        # SOF0..SOF15 hold the size, but for DHT (C4), JPG (C8) and DAC (CC), which share their range.
        if marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + length
    raise BadPicture("JPEG has no frame header")
