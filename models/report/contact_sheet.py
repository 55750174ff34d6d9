"""Contact sheet: frames, with the labels that a model gives them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cachenet.shared.inference.image import Picture

_COLUMNS = 5
_FIRST, _OTHERS, _INK = "#0072B2", "#c9c9c9", "#222222"
#: Longest label, title of a panel, and title of the sheet, characters.
_LABEL, _TITLE, _LINE = 24, 34, 130


class Panel(NamedTuple):
    """A frame. ``picture``: BGR; ``labels``: the first labels with their probabilities."""

    title: str
    picture: Picture
    labels: list[tuple[str, float]]


def sheet(title: str, panels: Sequence[Panel]) -> bytes:
    """A PNG with five panels in a row: each picture, with a bar for each label under it."""
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    aspect = max(panel.picture.shape[0] / panel.picture.shape[1] for panel in panels)
    height = min(2.8 * aspect, 4.2)
    figure = Figure(figsize=(2.9 * max(columns, 3), 0.6 + (height + 1.3) * rows), dpi=100, layout="constrained")
    figure.suptitle(short(title, _LINE), fontsize=10, color=_INK)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[height + 0.3, 1.0] * rows)
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        axes = figure.add_subplot(grid[2 * row, column])
        axes.imshow(panel.picture[:, :, ::-1], interpolation="nearest" if len(panel.picture) < 100 else "auto")
        axes.set_title(short(panel.title, _TITLE), fontsize=8, color=_INK)
        axes.set_axis_off()
        bars = figure.add_subplot(grid[2 * row + 1, column])
        shares = [share for _, share in panel.labels]
        colours = [_FIRST, *[_OTHERS] * (len(shares) - 1)]
        bars.barh(np.arange(len(shares)), shares, color=colours, height=0.86, alpha=0.45)
        for bar, (label, share) in enumerate(panel.labels):
            bars.text(0.02, bar, short(label, _LABEL), va="center", fontsize=9, color=_INK)
            bars.text(0.99, bar, f"{share:.0%}", va="center", ha="right", fontsize=9, color=_INK)
        bars.set(xlim=(0, 1), ylim=(2.5, -0.5))
        bars.set_axis_off()
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the font draws boxes for unknown letters
        figure.savefig(written, format="png")
    return written.getvalue()


def short(text: str, length: int) -> str:
    """At most ``length`` characters of ``text``, without control characters and formulas."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text).replace("$", r"\$")
    return plain if len(plain) <= length else f"{plain[: length - 1]}…"
