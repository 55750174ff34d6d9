"""Sheet of frames with the boxes that a detector finds in them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cachenet.models.report.contact_sheet import short
from cachenet.shared.inference.image import Picture

_COLUMNS = 3
#: Width of a frame, inches at 100 dots; most frames are 500 pixels wide in the sheet.
_WIDTH = 5.0
#: Tallest frame, inches.
_TALLEST = 6.0
#: Colours of the first labels in a sheet, told apart with every kind of colour vision (Okabe and Ito).
_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
_INK = "#222222"
#: Share of the frame's height above a box in which its label has room.
_ABOVE = 0.03
#: Longest label, title of a frame, and title of the sheet, characters.
_LABEL, _TITLE, _LINE = 16, 60, 150


class Box(NamedTuple):
    """A box: left, top, right and bottom as shares of the frame."""

    place: tuple[float, ...]
    label: str
    score: float


class Panel(NamedTuple):
    """A frame. ``picture``: BGR."""

    title: str
    picture: Picture
    boxes: list[Box]


def sheet(title: str, panels: Sequence[Panel]) -> bytes:
    """A PNG with three frames in a row. Each label has its colour."""
    labels = list(dict.fromkeys(box.label for panel in panels for box in panel.boxes))
    colours = {label: _COLOURS[number % len(_COLOURS)] for number, label in enumerate(labels)}
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    height = min(max(_WIDTH * panel.picture.shape[0] / panel.picture.shape[1] for panel in panels), _TALLEST)
    figure = Figure(figsize=(_WIDTH * max(columns, 2), 0.5 + (height + 0.3) * rows), dpi=100, layout="constrained")
    figure.suptitle(short(title, _LINE), fontsize=10, color=_INK)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(panel.picture[:, :, ::-1])
        axes.set_title(short(panel.title, _TITLE), fontsize=8, color=_INK)
        axes.set_axis_off()
        high, wide = panel.picture.shape[:2]
        for (left, top, right, bottom), label, score in reversed(panel.boxes):  # the surest on top
            corner, colour = (left * wide, top * high), colours[label]
            box = Rectangle(corner, (right - left) * wide, (bottom - top) * high, fill=False, ec=colour, lw=1.2)
            axes.add_patch(box)
            text = f"{short(label, _LABEL)} {score:.2f}"
            frame = {"facecolor": colour, "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
            side = "bottom" if top > _ABOVE else "top"
            axes.text(*corner, text, fontsize=5.5, color="black", va=side, bbox=frame, clip_on=True)
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the font draws boxes for unknown letters
        figure.savefig(written, format="png")
    return written.getvalue()
