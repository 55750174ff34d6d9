"""A sheet of frames with the labels that a model gives them, to be looked at."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from cachenet.shared.inference.image import Picture

_COLUMNS = 5
_SURE, _REST, _INK = "#0072B2", "#c9c9c9", "#222222"
#: Characters of a label, of a title and of the line above all that there is room for.
_LABEL, _TITLE, _LINE = 24, 34, 130


class Panel(NamedTuple):
    """``picture``: BGR; ``labels``: the first ones with their probabilities."""

    title: str
    picture: Picture
    labels: list[tuple[str, float]]


def sheet(title: str, panels: Sequence[Panel]) -> bytes:
    """A PNG, five panels a row: each picture, and under it a bar for each label."""
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    tall = max(panel.picture.shape[0] / panel.picture.shape[1] for panel in panels)
    high = min(2.8 * tall, 4.2)
    figure = Figure(figsize=(2.9 * max(columns, 3), 0.6 + (high + 1.3) * rows), dpi=100, layout="constrained")
    figure.suptitle(_short(title, _LINE), fontsize=10, color=_INK)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[high + 0.3, 1.0] * rows)
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        axes = figure.add_subplot(grid[2 * row, column])
        axes.imshow(panel.picture[:, :, ::-1], interpolation="nearest" if len(panel.picture) < 100 else "auto")
        axes.set_title(_short(panel.title, _TITLE), fontsize=8, color=_INK)
        axes.set_axis_off()
        bars = figure.add_subplot(grid[2 * row + 1, column])
        shares = [share for _, share in panel.labels]
        bars.barh(np.arange(len(shares)), shares, color=[_SURE, *[_REST] * (len(shares) - 1)], height=0.86, alpha=0.45)
        for number, (label, share) in enumerate(panel.labels):
            bars.text(0.02, number, _short(label, _LABEL), va="center", fontsize=9, color=_INK)
            bars.text(0.99, number, f"{share:.0%}", va="center", ha="right", fontsize=9, color=_INK)
        bars.set(xlim=(0, 1), ylim=(2.5, -0.5))
        bars.set_axis_off()
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font has not are drawn as boxes
        figure.savefig(written, format="png")
    return written.getvalue()


def _short(text: str, most: int) -> str:
    """At most so many characters, without what would be drawn as anything but text."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text).replace("$", r"\$")
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"
