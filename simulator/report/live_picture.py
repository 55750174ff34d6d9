"""The picture of a live run: latency and level of each answer, and the share of local answers over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cachenet.edge_agent.outputs.drawing import COLOURS
from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.command.extras import how_to_install
from cachenet.simulator.report.live_report import CACHENET, Outcome, Setting, ranked_baselines
from cachenet.simulator.report.progress_view import LOCAL

_INK, _FAINT = "#222222", "#8a8a8a"
#: Window of the local share, seconds.
_WINDOW_S = 1.0


class NoMatplotlib(Exception):
    """matplotlib is missing. The message says how to install it."""


def draw(path: Path, lines: Sequence[AnswerLine], outcomes: Mapping[str, Outcome], setting: Setting) -> None:
    """Write a PNG of 1400x900 pixels. Raises ``NoMatplotlib``.

    Args:
        path: The file.
        lines: CacheNet's answers in order.
        outcomes: Outcomes by policy; medians of the baselines are drawn.
        setting: Settings of the run.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise NoMatplotlib(f"the picture needs matplotlib; {how_to_install('sim')}") from None
    figure = Figure(figsize=(14, 9), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    latency, strip, share = figure.subplots(
        3, 1, sharex=True, height_ratios=(10, 1.1, 2.6), gridspec_kw={"hspace": 0.34}
    )
    figure.subplots_adjust(left=0.065, right=0.86, top=0.85, bottom=0.075)
    at = np.array([line.frame for line in lines]) / setting.fps
    _title(figure, outcomes[CACHENET], setting)
    _latency(latency, at, lines, outcomes)
    _strip(strip, at, lines)
    _share(share, at, lines, setting.fps)
    for axes in (latency, strip, share):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_INK, labelsize=11)
        axes.set_xlim(0, (len(lines)) / setting.fps)
    figure.savefig(path)


def _title(figure: Any, own: Outcome, setting: Setting) -> None:
    figure.text(
        0.065,
        0.95,
        f"{100 * own.device_share:.0f} % of {own.frames} frames were answered on the device; "
        f"{own.latency_ms['mean']:.1f} ms on average",
        fontsize=19,
        fontweight="bold",
        color=_INK,
    )
    figure.text(0.065, 0.92, f"CacheNet over {setting}", fontsize=12, color=_FAINT)
    counts = {**own.hits, "full": own.full, "cloud": own.cloud, "fallback": own.fallbacks}
    x = 0.065
    for level, count in counts.items():
        colour, text = COLOURS[level], f"● {level} {count}"
        figure.text(x, 0.88, text, fontsize=13, color=colour, fontweight="bold")
        x += 0.0085 * len(text) + 0.02


def _latency(
    axes: Any, at: npt.NDArray[np.float64], lines: Sequence[AnswerLine], outcomes: Mapping[str, Outcome]
) -> None:
    taken = np.array([max(line.latency_ms, 1e-2) for line in lines])
    for level, colour in COLOURS.items():
        chosen = np.array([line.level == level for line in lines])
        axes.scatter(at[chosen], taken[chosen], s=26, color=colour, alpha=0.8, linewidths=0, zorder=3)
    for begin, _, _ in _shown_objects(at, lines, at[-1]):
        axes.axvline(begin, color="#e8e8e8", linewidth=1, zorder=1)
    axes.set_yscale("log")
    medians = {name: outcomes[name].latency_ms["p50"] for name in (*ranked_baselines(outcomes), CACHENET)}
    # Labels are beside their lines; labels of close lines move apart.
    places = _spread({name: float(np.log10(ms)) for name, ms in medians.items()}, 0.1 * _decades(axes))
    for name, ms in medians.items():
        colour = _INK if name == CACHENET else _FAINT
        axes.axhline(ms, color=colour, linewidth=1.4, linestyle="-" if name == CACHENET else (0, (6, 3)), zorder=2)
        axes.annotate(
            f"{name}\nmedian {ms:.1f} ms" if ms >= 1 else f"{name}\nmedian {ms:.2f} ms",
            xy=(1.0, ms),
            xytext=(1.012, 10 ** places[name]),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=11.5,
            color=colour,
            fontweight="bold" if name == CACHENET else "normal",
        )
    axes.yaxis.set_major_formatter(lambda ms, _place: f"{ms:g}")
    axes.grid(axis="y", color="#ececec", zorder=0)
    axes.set_ylabel("latency, ms", fontsize=12, color=_INK)


def _decades(axes: Any) -> float:
    low, high = axes.get_ylim()
    return float(np.log10(high / low))


def _spread(places: Mapping[str, float], gap: float) -> dict[str, float]:
    """Move labels apart, as little as possible, until neighbours are ``gap`` from each other."""
    names = sorted(places, key=lambda name: places[name])
    moved = np.array([places[name] for name in names])
    for _ in range(100):
        overlap = np.maximum(0, gap - np.diff(moved))
        moved[:-1] -= overlap / 2
        moved[1:] += overlap / 2
    return dict(zip(names, moved.tolist(), strict=True))


def _strip(axes: Any, at: npt.NDArray[np.float64], lines: Sequence[AnswerLine]) -> None:
    """The level of each answer; above, the first answer of each submodel; below, the true labels."""
    colours = [[int(COLOURS[line.level][i : i + 2], 16) for i in (1, 3, 5)] for line in lines]
    end = at[-1] + at[1] if len(at) > 1 else 1.0
    axes.imshow(np.array([colours], np.uint8), extent=(0, end, 0, 1), aspect="auto", interpolation="nearest")
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
        axes.axvline(begin, -0.25, 0, color=_INK, linewidth=1, clip_on=False)
        if until - begin > letter * len(truth):
            axes.text((begin + until) / 2, -0.12, truth, ha="center", va="top", fontsize=10.5, color=_INK)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.text(1.012, 0.5, "level", transform=axes.transAxes, va="center", fontsize=11.5, color=_INK)
    axes.text(1.012, -0.25, "shown object", transform=axes.transAxes, va="center", fontsize=11.5, color=_INK)


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
    axes.set_yticks([0, 50, 100], ["0 %", "50 %", "100 %"])
    axes.grid(axis="y", color="#ececec")
    axes.set_xlabel("time, s", fontsize=12, color=_INK)
    axes.text(
        1.012, 0.5, "answered locally,\nlast second", transform=axes.transAxes, va="center", fontsize=11.5, color=_INK
    )
