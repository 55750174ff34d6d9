"""The result as JSON, as text of 80 columns, and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.real import trivial
from benchmarks.real.measure import Measured, Row
from benchmarks.real.policies import AUDIT_FLOOR, DEFAULT
from benchmarks.real.pooled import dominated, pooled
from cachenet.models.report.html_report import COLOURS

_INK, _FAINT = "#222222", "#8a8a8a"
_COLOUR: dict[str, str] = dict(zip(trivial.SETTINGS, COLOURS, strict=False))
_MARKER: dict[str, str] = dict(zip(trivial.SETTINGS, "osD^", strict=True))


def as_json(tasks: Sequence[Measured], seed: int) -> dict[str, Any]:
    """Measures of one task at the top; of several tasks under ``tasks``, with the comparison over all."""
    each = {task.name: {"task": task.name, **task.about, "policies": task.rows} for task in tasks}
    found: dict[str, Any] = next(iter(each.values())) if len(tasks) == 1 else {"tasks": each}
    if DEFAULT in tasks[0].rows:
        if len(tasks) > 1:
            found["pooled"] = pooled(tasks, seed)
        found["dominated"] = {task.name: dominated(task) for task in tasks}
    return found


def as_text(tasks: Sequence[Measured], seed: int) -> str:
    """The result as tables of at most 80 columns."""
    parts = [_table(task) for task in tasks]
    if DEFAULT in tasks[0].rows:
        parts.append(_comparison(tasks, seed))
    parts.append(
        "asked: share of frames that the full model was asked about, audits included.\n"
        "disagr.: answers that differ from the full model's label and from the majority\n"
        "of the nine frames around. agreement: answers that are the full model's label,\n"
        "with the 95 % interval of a bootstrap over blocks of 40 frames. over.: answers\n"
        "of the full model within the frame that were replaced. ms: work of the device\n"
        "for each frame. @hindsight: threshold chosen on the play frames themselves."
    )
    return "\n\n".join(parts)


def _table(task: Measured) -> str:
    about = task.about
    full, student = about["full"], about["student"]
    right = "" if full["truth"] is None else f", right on {_percent(full['truth'])} %"
    lines = [
        f"{task.name}: {about['frames']} play frames",
        f"full model: {full['changes']} changes of label{right}, {full['ms']:.1f} ms",
        f"student: agrees on {_percent(student['agreement_tune'])} % of tuning and "
        f"{_percent(student['agreement'])} % of play frames, {student['ms']:.1f} ms",
        "",
        f"{'policy':<22}{'asked':>7}{'disagr.':>8}{'agreement':>10}{'':>15}{'truth':>6}{'over.':>6}{'ms':>6}",
    ]
    lines += [_line(name, row) for name, row in task.rows.items()]
    lines += ["", "share by level, %"]
    shown = (name for name, row in task.rows.items() if not row["hindsight"])
    for name in shown:
        levels = ", ".join(f"{level} {_percent(share)}" for level, share in task.rows[name]["levels"].items())
        lines.append(f"{name:<22}{levels}")
    return "\n".join(lines)


def _line(name: str, row: Row) -> str:
    within = "" if row["interval"] is None else "[{}, {}]".format(*map(_percent, row["interval"]))
    truth = "" if row["truth"] is None else _percent(row["truth"])
    return (
        f"{name:<22}{_percent(row['asked']):>7}{_percent(row['disagreement']):>8}{_percent(row['agreement']):>10}"
        f"{within:>15}{truth:>6}{row['overruled']:>6}{row['ms']:>6.2f}"
    )


def _comparison(tasks: Sequence[Measured], seed: int) -> str:
    """CacheNet against the trivial policies, over all tasks."""
    lines = []
    if len(tasks) > 1:
        over = pooled(tasks, seed)
        lines += [
            f"{DEFAULT} against the best trivial policy in hindsight that asks no more",
            f"{'task':<22}{'asked':>7}{'agreement':>10}{'trivial':>14}{'asked':>7}{'agreement':>10}{'points':>8}",
        ]
        lines += [
            f"{name[:21]:<22}{_percent(row['asked']):>7}{_percent(row['agreement']):>10}{row['trivial']:>14}"
            f"{_percent(row['trivial_asked']):>7}{_percent(row['trivial_agreement']):>10}"
            f"{100 * row['difference']:>+8.1f}"
            for name, row in over["tasks"].items()
        ]
        lines += [
            "",
            f"all {len(tasks)} tasks, each of the same weight: {100 * over['difference']:+.2f} points",
            f"95 % interval over blocks of frames within tasks: {_points(over['interval'])}",
            f"95 % interval over tasks: {_points(over['interval_over_tasks'])}",
        ]
    lines += [
        *[""] * bool(lines),
        f"policies with a threshold from tuning that agree more than {DEFAULT} and ask",
        f"no more than its share beyond the audit floor of {100 * AUDIT_FLOOR:g} %",
        *(f"{task.name[:21]:<22}{', '.join(dominated(task)) or 'none'}" for task in tasks),
    ]
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(interval: Sequence[float]) -> str:
    return f"[{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]"


def plot(path: Path, tasks: Sequence[Measured]) -> None:
    """Write a PNG of agreement over share asked, one panel a task. Raises ``OSError``."""
    columns = min(len(tasks), 4)
    rows = -(-len(tasks) // columns)
    width, height = max(7.0, 3.6 * columns), 3.2 * rows + 1.1
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, task in zip(panels.flat, tasks, strict=False):
        _panel(axes, task)
    for axes in panels.flat[len(tasks) :]:
        axes.set_visible(False)
    handles = [
        Line2D([], [], color=_COLOUR[name], marker=_MARKER[name], markersize=6, label=name) for name in trivial.SETTINGS
    ]
    if DEFAULT in tasks[0].rows:
        handles.append(Line2D([], [], color="black", marker="o", markersize=7, label=DEFAULT))
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), frameon=False, fontsize=9)
    figure.text(
        0.5,
        0.012,
        "Lines: thresholds chosen in hindsight. Coloured marks: threshold from the tuning frames. "
        "Bars: 95 % intervals.",
        ha="center",
        fontsize=8,
        color=_FAINT,
    )
    figure.supxlabel("share of frames asked, %", fontsize=10, y=0.045 if rows > 1 else 0.07, color=_INK)
    figure.supylabel("agreement with the full model, %", fontsize=10, color=_INK)
    figure.tight_layout(rect=(0.01, 0.04, 1, 1 - 0.35 / height))
    figure.savefig(path, format="png")


def _panel(axes: Any, task: Measured) -> None:
    """Plot one task. A line is the upper envelope: the best agreement of any setting that asks no more."""
    own = {name: row for name, row in task.rows.items() if name.partition("@")[0] == DEFAULT}
    tuned: dict[str, Row] = {name: task.rows[name] for name in trivial.SETTINGS}
    for name, row in tuned.items():
        asked, agreement = np.array([*row["curve"], (1.0, 0.0)]).T  # extend the envelope to the right
        axes.step(
            100 * asked, 100 * np.maximum.accumulate(agreement), where="post", color=_COLOUR[name], lw=1.3, zorder=2
        )
        axes.plot(
            *(100 * row["asked"], 100 * row["agreement"]),
            **{"marker": _MARKER[name], "color": _COLOUR[name], "mec": "white", "ms": 8, "zorder": 4},
        )
    ordered = sorted(own.items(), key=lambda pair: float(pair[1]["asked"]))
    if ordered:
        points = 100 * np.array([(row["asked"], row["agreement"]) for _, row in ordered])
        axes.plot(*points.T, color="black", lw=1.3, zorder=5)
    for (name, row), point in zip(ordered, points if ordered else (), strict=True):
        default = name == DEFAULT
        low, high = row["interval"] or (row["agreement"], row["agreement"])
        bars = np.maximum(0, [[point[1] - 100 * low], [100 * high - point[1]]])
        axes.errorbar(
            *point, yerr=bars, fmt="o", color="black", ms=7 if default else 4, elinewidth=1, capsize=2, zorder=6
        )
    shown = [*own.values(), *tuned.values()]
    most = max((row["asked"] for row in shown if row["asked"] < 1), default=1.0)  # without policies that always ask
    axes.set_xlim(-1, min(101.0, max(30.0, 115 * most)))
    axes.set_ylim(max(0.0, 100 * min(0.95, *(row["agreement"] for row in shown)) - 3), 100.7)
    axes.set_title(task.name, fontsize=10, color=_INK)
    axes.grid(color="#ececec", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=8)
