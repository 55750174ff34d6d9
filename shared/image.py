"""Pictures: the one way from a camera frame to a model's input, and encoding for the wire."""

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
