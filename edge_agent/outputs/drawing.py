"""Drawing of answers on and below their picture, for the preview, ``--save`` and snapshots."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cachenet.edge_agent.outputs.marks import FONT, Colour, Marks, plain
from cachenet.edge_agent.outputs.report import WHOLE_PICTURE, AnswerLine, View, counts_text
from cachenet.shared.cascade.types import UNKNOWN
from cachenet.shared.inference.image import Picture

#: Colours of the levels: Okabe and Ito's palette for the colour-blind; green, yellow and blue: device, warm: network.
COLOURS = {
    "frames": "#009E73",
    "tracks": "#F0E442",
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
#: Colours of background, text and secondary text, BGR.
_BACKGROUND, _TEXT, _SECONDARY = (24, 24, 24), (245, 245, 245), (170, 170, 170)


def annotate(picture: Picture, lines: Sequence[AnswerLine], view: View = WHOLE_PICTURE) -> Picture:
    """``picture`` with its answers: objects and zones on it, and a caption below.

    The result is at least 480 pixels wide and has even sides, for video. The bar has the colour of the level; its
    length is the confidence. Of several zones, level, risk and confidence are those of the greatest risk.

    Args:
        lines: The answer to the picture, or those of all its zones.
        view: Region, drawn as a frame, and zones of the camera.
    """
    scaled = _scale(picture)
    height, width = scaled.shape[:2]
    total_width = max(_MIN_SIDE, width + width % 2)
    drawn = np.full((height + height % 2 + _BAR + _CAPTION, total_width, 3), _BACKGROUND, np.uint8)
    left = (total_width - width) // 2
    drawn[:height, left : left + width] = scaled
    line = max(lines, key=lambda one: one.risk)
    colour = bgr(COLOURS[line.level])
    if view.region is not None:
        region = view.region
        corner = left + round(region[0] * width), round(region[1] * height)
        other = corner[0] + round(region[2] * width) - 1, corner[1] + round(region[3] * height) - 1
        cv2.rectangle(drawn, corner, other, colour, 2)
    _mark(drawn[:height, left : left + width], lines, view)
    _bar_and_caption(drawn, lines, line, colour)
    return drawn


def _mark(picture: Picture, lines: Sequence[AnswerLine], view: View) -> None:
    """Draw objects and zones on ``picture``."""
    marks = Marks(picture)
    answers = {line.zone: line for line in lines}
    zones = []
    for zone in view.zones:
        if (line := answers.get(zone.name)) is not None:
            zones.append((zone, f"{zone.name}: {_answer(line)}", bgr(COLOURS[line.level])))
        elif (counts := lines[0].zone_counts) is not None:
            zones.append((zone, f"{zone.name}: {counts_text(counts.get(zone.name, {}))}", _TEXT))
    marks.zones(zones)
    for line in lines:
        marks.objects(line.objects or ())


def _bar_and_caption(drawn: Picture, lines: Sequence[AnswerLine], line: AnswerLine, colour: Colour) -> None:
    """Draw what is below the picture. ``line``: the answer of greatest risk."""
    total_width = drawn.shape[1]
    top = len(drawn) - _CAPTION - _BAR
    drawn[top : top + _BAR, : round(total_width * min(1.0, max(0.0, line.confidence)))] = colour

    first, second = top + _BAR + 27, top + _BAR + 50
    taken = _write(drawn, line.level, first, total_width - _MARGIN, 0.7, _TEXT, 2, right=True)
    square = total_width - 2 * _MARGIN - taken - _SQUARE, first - _SQUARE
    cv2.rectangle(drawn, square, (square[0] + _SQUARE - 1, first - 1), colour, cv2.FILLED)
    room = square[0] - 2 * _MARGIN
    answers = [f"{one.zone}: {_answer(one)}" if one.zone else _answer(one) for one in lines]
    _write(drawn, "   ".join(answers), first, _MARGIN, 0.8, _TEXT, 2, room)
    milliseconds = sum(one.latency_ms for one in lines)
    taken = _write(drawn, f"{milliseconds:.1f} ms", second, total_width - _MARGIN, 0.5, _SECONDARY, 1, right=True)
    room = total_width - 3 * _MARGIN - taken
    _, _, error = line.reason.partition("; ")  # the first part repeats the risk
    parts = [line.zone if len(lines) > 1 else "", f"risk {line.risk:.1%}", line.model, error]
    _write(drawn, "   ".join(filter(None, parts)), second, _MARGIN, 0.5, _SECONDARY, 1, room)


def _answer(line: AnswerLine) -> str:
    """The answer of a line as text."""
    if line.counts is not None:
        return counts_text(line.counts)
    return line.label if line.label == UNKNOWN else f"{line.label}  {line.confidence:.0%}"


def bgr(colour: str) -> Colour:
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
    text = plain(text)
    while (taken := cv2.getTextSize(text, FONT, scale, thickness)[0][0]) > (room or on.shape[1]) and len(text) > 3:
        text = text[:-3].rstrip(". ") + ".."
    cv2.putText(on, text, (x - taken if right else x, base), FONT, scale, colour, thickness, cv2.LINE_AA)
    return taken
