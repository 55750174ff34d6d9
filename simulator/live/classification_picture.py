"""The picture of a classifier's run: latency and level of each answer, and the share of local answers over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cachenet.edge_agent.outputs.drawing import COLOURS
from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.simulator.live import picture
from cachenet.simulator.live.outcome import CACHENET, Outcome, Setting
from cachenet.simulator.live.picture import FAINT, GRID, INK, NAME, SMALL
from cachenet.simulator.live.progress_view import LOCAL

#: Window of the local share, seconds.
_WINDOW_S = 1.0


def draw(
    path: Path, lines: Sequence[AnswerLine], own: Outcome, baselines: Mapping[str, float], setting: Setting
) -> None:
    """Write a PNG of 1400x900 pixels. Raises ``NoMatplotlib``.

    Args:
        path: The file.
        lines: CacheNet's answers in order.
        own: CacheNet's outcome.
        baselines: Median latency of each baseline, milliseconds.
        setting: Settings of the run.
    """
    figure = picture.canvas()
    latency, strip, share = figure.subplots(
        3, 1, sharex=True, height_ratios=(10, 1.1, 2.6), gridspec_kw={"hspace": 0.34}
    )
    figure.subplots_adjust(left=picture.LEFT, right=picture.RIGHT, top=0.85, bottom=0.075)
    at = picture.times(lines, setting)
    text = (
        f"{100 * own.device_share:.0f}% of {own.frames} frames were answered on the device; "
        f"{own.latency_ms['mean']:.1f} ms on average"
    )
    picture.title(figure, text, own, setting)
    _latency(latency, at, lines, {**baselines, CACHENET: own.latency_ms["p50"]})
    end = len(lines) / setting.fps
    picture.level_strip(strip, lines, end)
    _objects(strip, at, lines, end)
    _share(share, at, lines, setting.fps)
    picture.save(figure, path, (latency, strip, share), end)


def _latency(axes: Any, at: npt.NDArray[np.float64], lines: Sequence[AnswerLine], medians: Mapping[str, float]) -> None:
    """Latency and level of each answer, and the median of each policy, milliseconds."""
    taken = np.array([max(line.latency_ms, 1e-2) for line in lines])
    for level, colour in COLOURS.items():
        chosen = np.array([line.level == level for line in lines])
        axes.scatter(at[chosen], taken[chosen], s=26, color=colour, alpha=0.8, linewidths=0, zorder=3)
    for begin, _, _ in _shown_objects(at, lines, at[-1]):
        axes.axvline(begin, color="#e8e8e8", linewidth=1, zorder=1)
    axes.set_yscale("log")
    # Labels are beside their lines; labels of close lines move apart.
    places = picture.spread({name: float(np.log10(ms)) for name, ms in medians.items()}, 0.1 * _decades(axes))
    for name, ms in medians.items():
        colour = INK if name == CACHENET else FAINT
        axes.axhline(ms, color=colour, linewidth=1.4, linestyle="-" if name == CACHENET else (0, (6, 3)), zorder=2)
        axes.annotate(
            f"{name}\nmedian {ms:.1f} ms" if ms >= 1 else f"{name}\nmedian {ms:.2f} ms",
            xy=(1.0, ms),
            xytext=(NAME, 10 ** places[name]),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=SMALL,
            color=colour,
            fontweight="bold" if name == CACHENET else "normal",
        )
    axes.yaxis.set_major_formatter(lambda ms, _place: f"{ms:g}")
    axes.grid(axis="y", color=GRID, zorder=0)
    axes.set_ylabel("latency, ms", fontsize=12, color=INK)


def _decades(axes: Any) -> float:
    low, high = axes.get_ylim()
    return float(np.log10(high / low))


def _objects(axes: Any, at: npt.NDArray[np.float64], lines: Sequence[AnswerLine], end: float) -> None:
    """Above the strip of levels the first answer of each submodel; below, the true labels."""
    letter = end / 130  # width of a letter, seconds
    reached = [-1.0, -1.0]  # end of the last name in each of two rows
    for place, name in _first_answers(at, lines):
        width = letter * (len(name) + 3)
        left = min(place, end - width)
        row = 0 if left > reached[0] else 1
        reached[row] = left + width
        style = {"color": COLOURS["submodels"], "fontsize": 10.5, "transform": axes.get_xaxis_transform()}
        axes.text(place, 1.03, "▼", ha="center", va="bottom", **style)
        axes.text(left + 1.2 * letter, 1.05 + 0.3 * row, f"{name} joins", ha="left", va="bottom", **style)
    for begin, until, truth in _shown_objects(at, lines, end):
        axes.axvline(begin, -0.25, 0, color=INK, linewidth=1, clip_on=False)
        if until - begin > letter * len(truth):
            axes.text((begin + until) / 2, -0.12, truth, ha="center", va="top", fontsize=10.5, color=INK)
    picture.name(axes, "shown object", -0.25)


def _first_answers(at: npt.NDArray[np.float64], lines: Sequence[AnswerLine]) -> list[tuple[float, str]]:
    """Time of the first answer of each submodel."""
    first: dict[str, float] = {}
    for place, line in zip(at.tolist(), lines, strict=True):
        if line.level == "submodels":
            first.setdefault(line.model, place)
    return [(place, name) for name, place in first.items()]


def _shown_objects(
    at: npt.NDArray[np.float64], lines: Sequence[AnswerLine], end: float
) -> list[tuple[float, float, str]]:
    """Start, end and true label of each shown object, where the truth is known."""
    runs = [
        (next(run)[0], truth)
        for truth, run in groupby(zip(at.tolist(), lines, strict=True), key=lambda pair: pair[1].truth)
    ]
    ends = [begin for begin, _ in runs[1:]] + [end]
    return [(begin, until, truth) for (begin, truth), until in zip(runs, ends, strict=True) if truth is not None]


def _share(axes: Any, at: npt.NDArray[np.float64], lines: Sequence[AnswerLine], fps: float) -> None:
    """Share of local answers in the last second."""
    local = np.array([line.level in LOCAL for line in lines], float)
    window = max(1, round(_WINDOW_S * fps))
    summed = np.cumsum(np.concatenate([np.zeros(window), local]))
    share = 100 * (summed[window:] - summed[:-window]) / np.minimum(np.arange(len(local)) + 1, window)
    axes.fill_between(at, share, color=COLOURS["submodels"], alpha=0.18, linewidth=0)
    axes.plot(at, share, color=COLOURS["submodels"], linewidth=1.8)
    axes.set_ylim(0, 105)
    axes.set_yticks([0, 50, 100], ["0%", "50%", "100%"])
    axes.grid(axis="y", color=GRID)
    axes.set_xlabel("time, s", fontsize=12, color=INK)
    picture.name(axes, "answered locally,\nlast second")
