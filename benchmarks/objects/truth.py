"""True boxes of people in the format of the MOTChallenge: a line a box, separated by commas."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cachenet.shared.cascade.detect.detections import Detections, checked
from cachenet.shared.command.errors import UserError

#: Label of the boxes.
PERSON = "person"
#: Frame, identity, left, top, width, height and confidence. Boxes with confidence 0 are to be ignored.
_COLUMNS = 7


def read(path: Path, frames: range, size: tuple[int, int], label: int) -> list[Detections]:
    """Read the boxes of ``frames``, numbered from 0; in the file frames are numbered from 1.

    Args:
        size: Width and height of the video, pixels.
        label: Index of the label of all boxes.

    Raises:
        UserError: The file is not readable or not in this format.
    """
    boxes: dict[int, list[list[float]]] = {frame: [] for frame in frames}
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text file") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            frame, _, left, top, width, height, confidence = map(float, line.split(",")[:_COLUMNS])
        except ValueError:
            raise UserError(
                f"{path}, line {number}: {line[:40]!r} is not frame,id,left,top,width,height,confidence"
            ) from None
        if confidence and (own := boxes.get(int(frame) - 1)) is not None:
            own.append([left, top, left + width, top + height])
    scale = np.array([*size, *size], np.float32)
    return [
        checked(np.reshape(own, (-1, 4)) / scale, np.full(len(own), label), np.ones(len(own)), label + 1)
        for own in boxes.values()
    ]
