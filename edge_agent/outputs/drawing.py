"""Drawing an answer on its picture: what the preview shows and ``--save`` keeps."""

from __future__ import annotations

import unicodedata

import cv2
import numpy as np

from cachenet.edge_agent.outputs.report import Line
from cachenet.shared.cascade.types import UNKNOWN
from cachenet.shared.inference.image import Picture, Region

#: Okabe and Ito's palette, which the colour-blind can tell apart: blue and green for the device, warm for the network.
COLOURS = {
    "frames": "#009E73",
    "submodels": "#0072B2",
    "base": "#56B4E9",
    "full": "#CC79A7",
    "cloud": "#E69F00",
    "fallback": "#D55E00",
}

#: The longer side is brought within these: a thumbnail so that a caption fits, a large picture so that a page does.
_LEAST, _MOST = 480, 1280
#: Heights in pixels: of the caption under the picture, and of the bar above that.
_CAPTION, _BAR = 60, 6
_MARGIN, _SPOT = 10, 14
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_PAPER, _INK, _FAINT = (24, 24, 24), (245, 245, 245), (170, 170, 170)


def annotate(picture: Picture, line: Line, region: Region | None = None) -> Picture:
    """A new picture, at least 480 pixels wide and of even sides, as video wants them: ``picture`` with its answer
    written below it, so that nothing is hidden. The bar between them has the level's colour and is as long as the
    answer is sure. ``region``: the part that was looked at, framed."""
    shown = _fit(picture)
    height, width = shown.shape[:2]
    across = max(_LEAST, width + width % 2)
    drawn = np.full((height + height % 2 + _BAR + _CAPTION, across, 3), _PAPER, np.uint8)
    left = (across - width) // 2
    drawn[:height, left : left + width] = shown
    colour = bgr(COLOURS[line.level])
    if region is not None:
        corner = left + round(region[0] * width), round(region[1] * height)
        other = corner[0] + round(region[2] * width) - 1, corner[1] + round(region[3] * height) - 1
        cv2.rectangle(drawn, corner, other, colour, 2)
    top = len(drawn) - _CAPTION - _BAR
    drawn[top : top + _BAR, : round(across * min(1.0, max(0.0, line.confidence)))] = colour

    first, second = top + _BAR + 27, top + _BAR + 50
    taken = _write(drawn, line.level, first, across - _MARGIN, 0.7, _INK, 2, right=True)
    spot = across - 2 * _MARGIN - taken - _SPOT, first - _SPOT
    cv2.rectangle(drawn, spot, (spot[0] + _SPOT - 1, first - 1), colour, cv2.FILLED)
    room = spot[0] - 2 * _MARGIN
    sure = "" if line.label == UNKNOWN else f"  {line.confidence:.0%}"
    _write(drawn, line.label + sure, first, _MARGIN, 0.8, _INK, 2, room)
    taken = _write(drawn, f"{line.latency_ms:.1f} ms", second, across - _MARGIN, 0.5, _FAINT, 1, right=True)
    room = across - 3 * _MARGIN - taken
    _, _, error = line.reason.partition("; ")  # what comes before says the risk, too
    words = [f"risk {line.risk:.1%}", line.model, error]
    _write(drawn, "   ".join(filter(None, words)), second, _MARGIN, 0.5, _FAINT, 1, room)
    return drawn


def bgr(colour: str) -> tuple[int, int, int]:
    """Of ``#rrggbb``."""
    red, green, blue = bytes.fromhex(colour[1:])
    return blue, green, red


def _fit(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    longer = max(height, width)
    if _LEAST <= longer <= _MOST:
        return picture
    if longer < _LEAST:  # whole pixels, as large as they came
        factor: float = -(-_LEAST // longer)
        how = cv2.INTER_NEAREST
    else:
        factor, how = _MOST / longer, cv2.INTER_AREA
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(picture, size, interpolation=how)  # type: ignore[return-value]


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
    """One line of text from ``x`` on, or up to it, cut to ``room`` pixels; the pixels that it took."""
    text = _plain(text)
    while (taken := cv2.getTextSize(text, _FONT, scale, thickness)[0][0]) > (room or on.shape[1]) and len(text) > 3:
        text = text[:-3].rstrip(". ") + ".."
    cv2.putText(on, text, (x - taken if right else x, base), _FONT, scale, colour, thickness, cv2.LINE_AA)
    return taken


def _plain(text: str) -> str:
    """In the letters that OpenCV's fonts have: without accents, and ``?`` for what has no likeness."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letters).encode("ascii", "replace").decode()
