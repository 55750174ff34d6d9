"""Drawing of an answer below its picture, for the preview and ``--save``."""

from __future__ import annotations

import unicodedata

import cv2
import numpy as np

from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.cascade.types import UNKNOWN
from cachenet.shared.inference.image import Picture, Region

#: Colours of the levels: Okabe and Ito's palette for the colour-blind; blue and green: device, warm: network.
COLOURS = {
    "frames": "#009E73",
    "submodels": "#0072B2",
    "base": "#56B4E9",
    "full": "#CC79A7",
    "cloud": "#E69F00",
    "fallback": "#D55E00",
}

#: Smallest longer side of a drawn picture, pixels: space for the caption.
_MIN_SIDE = 480
#: Largest longer side of a drawn picture, pixels: fits a web page.
_MAX_SIDE = 1280
#: Height of the caption below the picture, pixels.
_CAPTION = 60
#: Height of the confidence bar between picture and caption, pixels.
_BAR = 6
#: Margin of the caption, pixels.
_MARGIN = 10
#: Side of the coloured square beside the level, pixels.
_SQUARE = 14
_FONT = cv2.FONT_HERSHEY_SIMPLEX
#: Colours of background, text and secondary text, BGR.
_BACKGROUND, _TEXT, _SECONDARY = (24, 24, 24), (245, 245, 245), (170, 170, 170)


def annotate(picture: Picture, line: AnswerLine, region: Region | None = None) -> Picture:
    """``picture`` with its answer drawn below.

    The result is at least 480 pixels wide and has even sides, for video. The bar has the colour of the level; its
    length is the confidence.

    Args:
        region: Classified part of the picture, drawn as a frame.
    """
    scaled = _scale(picture)
    height, width = scaled.shape[:2]
    total_width = max(_MIN_SIDE, width + width % 2)
    drawn = np.full((height + height % 2 + _BAR + _CAPTION, total_width, 3), _BACKGROUND, np.uint8)
    left = (total_width - width) // 2
    drawn[:height, left : left + width] = scaled
    colour = bgr(COLOURS[line.level])
    if region is not None:
        corner = left + round(region[0] * width), round(region[1] * height)
        other = corner[0] + round(region[2] * width) - 1, corner[1] + round(region[3] * height) - 1
        cv2.rectangle(drawn, corner, other, colour, 2)
    top = len(drawn) - _CAPTION - _BAR
    drawn[top : top + _BAR, : round(total_width * min(1.0, max(0.0, line.confidence)))] = colour

    first, second = top + _BAR + 27, top + _BAR + 50
    taken = _write(drawn, line.level, first, total_width - _MARGIN, 0.7, _TEXT, 2, right=True)
    square = total_width - 2 * _MARGIN - taken - _SQUARE, first - _SQUARE
    cv2.rectangle(drawn, square, (square[0] + _SQUARE - 1, first - 1), colour, cv2.FILLED)
    room = square[0] - 2 * _MARGIN
    confidence = "" if line.label == UNKNOWN else f"  {line.confidence:.0%}"
    _write(drawn, line.label + confidence, first, _MARGIN, 0.8, _TEXT, 2, room)
    taken = _write(drawn, f"{line.latency_ms:.1f} ms", second, total_width - _MARGIN, 0.5, _SECONDARY, 1, right=True)
    room = total_width - 3 * _MARGIN - taken
    _, _, error = line.reason.partition("; ")  # the first part repeats the risk
    parts = [f"risk {line.risk:.1%}", line.model, error]
    _write(drawn, "   ".join(filter(None, parts)), second, _MARGIN, 0.5, _SECONDARY, 1, room)
    return drawn


def bgr(colour: str) -> tuple[int, int, int]:
    """Blue, green and red of ``#rrggbb``."""
    red, green, blue = bytes.fromhex(colour[1:])
    return blue, green, red


def _scale(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    longer = max(height, width)
    if _MIN_SIDE <= longer <= _MAX_SIDE:
        return picture
    if longer < _MIN_SIDE:  # an integer factor keeps the pixels visible
        factor: float = -(-_MIN_SIDE // longer)
        interpolation = cv2.INTER_NEAREST
    else:
        factor, interpolation = _MAX_SIDE / longer, cv2.INTER_AREA
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(picture, size, interpolation=interpolation)  # type: ignore[return-value]


def _write(
    on: Picture,
    text: str,
    base: int,
    x: int,
    scale: float,
    colour: tuple[int, int, int],
    thickness: int,
    room: int | None = None,
    right: bool = False,
) -> int:
    """Write one line of text from ``x`` on, or up to ``x`` if ``right``, cut to ``room`` pixels; returns its width."""
    text = _plain(text)
    while (taken := cv2.getTextSize(text, _FONT, scale, thickness)[0][0]) > (room or on.shape[1]) and len(text) > 3:
        text = text[:-3].rstrip(". ") + ".."
    cv2.putText(on, text, (x - taken if right else x, base), _FONT, scale, colour, thickness, cv2.LINE_AA)
    return taken


def _plain(text: str) -> str:
    """``text`` in ASCII, as OpenCV's fonts need it: without accents, and ``?`` for other letters."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letters).encode("ascii", "replace").decode()
