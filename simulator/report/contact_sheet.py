"""A contact sheet: frames of a stream on one picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from cachenet.shared.inference.image import Picture
from cachenet.shared.media import recording as stream

#: Size of the sheet, pictures.
_COLUMNS, _ROWS = 10, 6
#: Longer side of a picture, pixels.
_SIDE = 120
#: Height of the line of text under a picture, pixels.
_TEXT = 16
#: Space between two pictures, pixels.
_SPACE = 8
_INK, _PAPER, _MARK = (40, 40, 40), 255, (0, 94, 213)


def contact_sheet(directory: Path) -> Picture:
    """Up to sixty frames of a stream, evenly spaced, with their numbers and labels.

    A bar marks a frame whose label differs from that of the frame before. Raises ``StreamError``.
    """
    recording = stream.read(directory)
    shown = np.unique(np.linspace(0, recording.frames - 1, _COLUMNS * _ROWS).astype(int)).tolist()
    pictures = [_scaled(stream.picture(directory, recording, index)) for index in shown]
    high = max(len(picture) for picture in pictures)
    columns, across, down = min(_COLUMNS, len(shown)), _SIDE + _SPACE, high + _TEXT + _SPACE
    rows = -(-len(shown) // columns)
    sheet: Picture = np.full((rows * down + _SPACE, columns * across + _SPACE, 3), _PAPER, np.uint8)
    truth = recording.truth
    changed = [False] + [truth is not None and truth[a] != truth[b] for a, b in pairwise(shown)]
    for place, (index, picture) in enumerate(zip(shown, pictures, strict=True)):
        top, left = _SPACE + place // columns * down, _SPACE + place % columns * across
        sheet[top : top + len(picture), left : left + picture.shape[1]] = picture
        if changed[place]:
            sheet[top - 4 : top - 1, left : left + picture.shape[1]] = _MARK
        text = str(index) if truth is None else f"{index} {recording.labels[truth[index]]}"
        at = (left, top + high + _TEXT - 4)
        cv2.putText(sheet, text[:18], at, cv2.FONT_HERSHEY_SIMPLEX, 0.36, _INK, 1, cv2.LINE_AA)
    return sheet


def _scaled(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return cv2.resize(picture, size, interpolation=method)  # type: ignore[return-value]
