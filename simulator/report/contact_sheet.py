"""A contact sheet: what a stream shows, on one page."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from cachenet.shared.inference.image import Picture
from cachenet.shared.media import recording as stream

_COLUMNS, _ROWS = 10, 6
#: Pixels of a picture's longer side, of the line of words under it, and of the room between two.
_SIDE, _WORDS, _ROOM = 120, 16, 8
_INK, _PAPER, _MARK = (40, 40, 40), 255, (0, 94, 213)


def contact_sheet(directory: Path) -> Picture:
    """Up to sixty frames of a stream, evenly spread, with their numbers and labels; a bar over a frame whose label is
    another than that of the one before. Raises ``shared.media.recording.StreamError``."""
    recording = stream.read(directory)
    shown = np.unique(np.linspace(0, recording.frames - 1, _COLUMNS * _ROWS).astype(int)).tolist()
    pictures = [_fit(stream.picture(directory, recording, index)) for index in shown]
    high = max(len(picture) for picture in pictures)
    columns, across, down = min(_COLUMNS, len(shown)), _SIDE + _ROOM, high + _WORDS + _ROOM
    rows = -(-len(shown) // columns)
    sheet: Picture = np.full((rows * down + _ROOM, columns * across + _ROOM, 3), _PAPER, np.uint8)
    truth = recording.truth
    changed = [False] + [truth is not None and truth[a] != truth[b] for a, b in pairwise(shown)]
    for place, (index, picture) in enumerate(zip(shown, pictures, strict=True)):
        top, left = _ROOM + place // columns * down, _ROOM + place % columns * across
        sheet[top : top + len(picture), left : left + picture.shape[1]] = picture
        if changed[place]:
            sheet[top - 4 : top - 1, left : left + picture.shape[1]] = _MARK
        words = str(index) if truth is None else f"{index} {recording.labels[truth[index]]}"
        at = (left, top + high + _WORDS - 4)
        cv2.putText(sheet, words[:18], at, cv2.FONT_HERSHEY_SIMPLEX, 0.36, _INK, 1, cv2.LINE_AA)
    return sheet


def _fit(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    scale = _SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return cv2.resize(picture, size, interpolation=how)  # type: ignore[return-value]
