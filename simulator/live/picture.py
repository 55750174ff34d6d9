"""Parts of the pictures of live runs: title, counts of levels, and the strip of levels over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cachenet.edge_agent.outputs.drawing import COLOURS
from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.command.extras import how_to_install
from cachenet.simulator.live.outcome import Outcome, Setting

INK, FAINT, GRID = "#222222", "#8a8a8a", "#ececec"
#: Left and right edge of the plots, as shares of the picture's width; to the right are their names.
LEFT, RIGHT = 0.065, 0.86
#: Place of a name to the right of its plot, as a share of the plot's width.
NAME = 1.012
#: Size of names and numbers, points.
SMALL = 11.5


class NoMatplotlib(Exception):
    """matplotlib is missing. The message says how to install it."""


def canvas() -> Any:
    """A figure of 1400 x 900 pixels. Raises ``NoMatplotlib``."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise NoMatplotlib(f"the picture needs matplotlib; {how_to_install('sim')}") from None
    figure = Figure(figsize=(14, 9), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def times(lines: Sequence[AnswerLine], setting: Setting) -> npt.NDArray[np.float64]:
    """Time of each frame, seconds."""
    return np.array([line.frame for line in lines]) / setting.fps


def title(figure: Any, text: str, own: Outcome, setting: Setting, fallback: str = "fallback") -> None:
    """Write the title, the settings, and the number of answers by level in the colours of the levels.

    Args:
        fallback: Name of the level ``fallback``.
    """
    figure.text(LEFT, 0.95, text, fontsize=19, fontweight="bold", color=INK)
    figure.text(LEFT, 0.92, f"CacheNet over {setting}", fontsize=12, color=FAINT)
    x = LEFT
    for level, count in {**own.hits, "full": own.full, "cloud": own.cloud, "fallback": own.fallbacks}.items():
        if count:
            written = f"● {fallback if level == 'fallback' else level} {count}"
            figure.text(x, 0.88, written, fontsize=13, color=COLOURS[level], fontweight="bold")
            x += 0.0085 * len(written) + 0.02


def level_strip(axes: Any, lines: Sequence[AnswerLine], end: float) -> None:
    """Draw the level of each answer in its colour, from 0 to ``end`` seconds."""
    colours = [[int(COLOURS[line.level][i : i + 2], 16) for i in (1, 3, 5)] for line in lines]
    axes.imshow(np.array([colours], np.uint8), extent=(0, end, 0, 1), aspect="auto", interpolation="nearest")
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    name(axes, "level")


def name(axes: Any, text: str, y: float = 0.5) -> None:
    """Write the name of a plot to the right of it, at the share ``y`` of its height."""
    axes.text(NAME, y, text, transform=axes.transAxes, va="center", fontsize=SMALL, color=INK)


def spread(places: dict[str, float], gap: float) -> dict[str, float]:
    """Move labels apart, as little as possible, until neighbours are ``gap`` from each other."""
    names = sorted(places, key=lambda one: places[one])
    moved = np.array([places[one] for one in names])
    for _ in range(100):
        overlap = np.maximum(0, gap - np.diff(moved))
        moved[:-1] -= overlap / 2
        moved[1:] += overlap / 2
    return dict(zip(names, moved.tolist(), strict=True))


def save(figure: Any, path: Path, plots: Sequence[Any], end: float) -> None:
    """Write the picture; ``plots``: axes over time, from 0 to ``end`` seconds."""
    for axes in plots:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=11)
        axes.set_xlim(0, end)
    figure.savefig(path)
