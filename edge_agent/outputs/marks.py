"""Marks on a picture: boxes of objects, zones and their texts."""

from __future__ import annotations

import colorsys
import unicodedata
from collections.abc import Sequence

import cv2
import numpy as np

from cachenet.edge_agent.outputs.report import Object
from cachenet.edge_agent.zones import Zone
from cachenet.shared.inference.image import Picture

#: Blue, green and red, each 0 to 255.
Colour = tuple[int, int, int]

FONT = cv2.FONT_HERSHEY_SIMPLEX
#: Scale and thickness of the text of an object or zone: 9 pixels high, readable in a picture of 640 x 480.
_SCALE, _THICKNESS = 0.4, 1
#: Pixels between a text and the edge of its background.
_PADDING = 2
#: Distance of the hues of two tracks in a row: the golden ratio, with which any few tracks in a row differ most.
_HUE_STEP = (5**0.5 - 1) / 2
#: Saturation and brightness of the colours of tracks: light enough for black text.
_SATURATION, _BRIGHTNESS = 0.7, 1.0
_BLACK = (0, 0, 0)


def track_colour(track: int) -> Colour:
    """The colour of a track: the same in every picture."""
    red, green, blue = colorsys.hsv_to_rgb(track * _HUE_STEP % 1.0, _SATURATION, _BRIGHTNESS)
    return round(255 * blue), round(255 * green), round(255 * red)


class Marks:
    """Draws on ``picture``. Texts avoid each other: one without space is shortened, or left out."""

    def __init__(self, picture: Picture) -> None:
        """``picture``: (height, width, 3) uint8 BGR; it is changed."""
        self._picture = picture
        self._height, self._width = picture.shape[:2]
        #: Left, top, right and bottom of each text.
        self._texts: list[tuple[int, int, int, int]] = []

    def zones(self, zones: Sequence[tuple[Zone, str, Colour]]) -> None:
        """Draw the edges of zones, each with its text at its upper left corner."""
        each = [(np.array(zone.polygon) * (self._width - 1, self._height - 1)).round() for zone, _, _ in zones]
        for corners, (_, _, colour) in zip(each, zones, strict=True):
            cv2.polylines(self._picture, [corners.astype(np.int32)], True, colour, 2, cv2.LINE_AA)
        for corners, (zone, text, colour) in zip(each, zones, strict=True):
            x, y = corners[corners.sum(1).argmin()].astype(int).tolist()
            self._write(text, x, y, colour, below=True) or self._write(zone.name, x, y, colour, below=True)

    def objects(self, objects: Sequence[Object]) -> None:
        """Draw the boxes of objects, each in the colour of its track; texts of large objects first."""
        for own in objects:
            left, top, right, bottom = self._pixels(own)
            cv2.rectangle(self._picture, (left, top), (right, bottom), track_colour(own.track), 2)
        for own in sorted(objects, key=lambda own: (-own.box[2] * own.box[3], own.track)):
            left, top, _, bottom = self._pixels(own)
            name, colour = f"{own.track} {own.label}", track_colour(own.track)
            any(
                self._write(text, left - 1, y, colour, below)
                for text in (f"{name} {own.confidence:.0%}", name, str(own.track))
                for y, below in ((top, False), (bottom + 1, True))
            )

    def _pixels(self, own: Object) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of an object, pixels within the picture."""
        x, y, w, h = own.box
        sides = np.array((x, y, x + w, y + h)) * (self._width, self._height, self._width, self._height)
        limits = (self._width - 1, self._height - 1, self._width - 1, self._height - 1)
        left, top, right, bottom = np.clip(sides.round(), 0, limits).astype(int).tolist()
        return left, top, right, bottom

    def _write(self, text: str, x: int, y: int, colour: Colour, below: bool) -> bool:
        """Write ``text`` above ``y``, or ``below`` it, from ``x`` on; returns whether it has space there."""
        text = plain(text)
        (width, height), descent = cv2.getTextSize(text, FONT, _SCALE, _THICKNESS)
        tall, wide = height + descent + 2 * _PADDING, width + 2 * _PADDING
        left = max(0, min(x, self._width - wide))
        top = max(0, min(y if below else y - tall, self._height - tall))
        area = left, top, left + wide, top + tall
        if any(_overlap(area, other) for other in self._texts):
            return False
        self._texts.append(area)
        cv2.rectangle(self._picture, (left, top), (left + wide - 1, top + tall - 1), colour, cv2.FILLED)
        base = left + _PADDING, top + _PADDING + height
        cv2.putText(self._picture, text, base, FONT, _SCALE, _BLACK, _THICKNESS, cv2.LINE_AA)
        return True


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def plain(text: str) -> str:
    """``text`` in ASCII, as OpenCV's fonts need it: without accents, and ``?`` for other letters."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letters).encode("ascii", "replace").decode()
