"""The result as text of 80 columns, and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.objects.measure import CACHENET, Row
from cachenet.models.report.html_report import COLOURS

_INK, _FAINT = "#222222", "#8a8a8a"
#: Policies with a curve in the plot, with their marks.
_LINES = {"react": "o", "carry": "s", "hold": "D", "difference": "^", "server-only": "v", "device-base": "X"}
_NOTE = """\
F1: streaming F1, what the device says at the moment of each frame against the
full model's objects of that frame, with the 95 % interval of a bootstrap over
blocks of 30 frames. error: mean of 1 - F1 of each frame. asked: share of
frames asked about, audits included. ms: work of the device for each frame.
Settings are chosen on the build frames: of each policy the one nearest to
cachenet's questions, and @best the one with the best F1 there. oracle: a
bound, it knows the full model's objects."""


def as_text(result: dict[str, Any]) -> str:
    """The result, which is the JSON's, as tables of at most 80 columns."""
    parts = [_head(result), _policies(result["policies"]), _paired(result["paired"]), _budgets(result)]
    if result["truth"]:
        own, full = result["truth"][CACHENET], result["truth"]["full"]
        parts.append(f"against true boxes: {CACHENET} {own:.3f}, full model on single frames {full:.3f}")
    return "\n\n".join([*parts, _NOTE])


def _head(result: dict[str, Any]) -> str:
    (first, end), (start, stop) = result["frames"]["build"], result["frames"]["measure"]
    full, base = result["full"], result["base"]
    labels = ", ".join(result["labels"][:4]) + (f" and {len(result['labels']) - 4} more" * (len(result["labels"]) > 4))
    return "\n".join(
        [
            f"{result['video']}, {result['fps']:g} frames a second, {labels}",
            f"frames {first} to {end - 1} to build, {start} to {stop - 1} measured",
            f"full model: {full['file']}, {full['objects']:.1f} objects a frame",
            f"device's detector: {base['file']}, {base['ms']:.1f} ms, scores of {base['score']:g} or more",
            f"link {result['link']}, server {result['server_ms']:g} ms: replies {_frames(result['late'])} late",
        ]
    )


def _policies(rows: dict[str, Row]) -> str:
    lines = [f"{'policy':<18}{'F1':>6}{'':>15}{'error':>7}{'asked':>8}{'kB/s':>7}{'ms':>7}"]
    for name, row in rows.items():
        within = "" if row["interval"] is None else "[{:.3f}, {:.3f}]".format(*row["interval"])
        lines.append(
            f"{name:<18}{row['streaming_f1']:>6.3f}{within:>15}{row['object_error']:>7.3f}{row['asked']:>8.1%}"
            f"{row['kb_up_s']:>7.0f}{row['device_ms']:>7.1f}"
        )
    lines += ["", "share of frames by level"]
    for name in (CACHENET, "react"):
        shares = ", ".join(f"{level} {share:.1%}" for level, share in rows[name]["levels"].items())
        lines.append(f"{name:<18}{shares}")
    return "\n".join(lines)


def _paired(rows: dict[str, Row]) -> str:
    lines = [
        f"{CACHENET} against each policy at equal questions",
        f"{'policy':<18}{'asked':>8}{'F1':>7}{'difference':>12}",
    ]
    for name, row in rows.items():
        within = "" if row["interval"] is None else "[{:+.3f}, {:+.3f}]".format(*row["interval"])
        lines.append(
            f"{name:<18}{row['other_asked']:>8.1%}{row['other_f1']:>7.3f}{row['difference']:>+12.3f}  {within}"
        )
    return "\n".join(lines)


def _budgets(result: dict[str, Any]) -> str:
    floor = result["floor"]
    lines = [
        f"every frame asked and carried: F1 {floor['streaming_f1']:.3f}, error {floor['object_error']:.3f}",
        f"{'budget':<8}{'error':>7}{'blocks within':>15}{'if all asked':>14}  stated by the device",
    ]
    for budget, row in result["budgets"].items():
        stated = "" if row["stated_floor"] is None else f"floor {row['stated_floor']:.3f}"
        lines.append(
            f"{budget:<8}{row['object_error']:>7.3f}{row['within']:>11.0%} of {row['blocks']:<2}"
            f"{row['floor_within']:>12.0%}  {stated}{', too high to ask' * row['unattainable']}"
        )
    return "\n".join(lines)


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"


def plot(path: Path, result: dict[str, Any]) -> None:
    """Write a PNG of streaming F1 over the share of frames asked. Raises ``OSError``."""
    figure = Figure(figsize=(7.5, 5.0), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    rows = result["policies"]
    for (name, mark), colour in zip(_LINES.items(), COLOURS, strict=False):
        points = 100 * np.array(rows[name]["curve"])
        axes.plot(*points.T, color=colour, lw=1.2, marker=mark, ms=5, mec="white", label=name, zorder=3)
    own = 100 * np.array(rows[CACHENET]["curve"])
    axes.plot(*own.T, color="black", lw=1.6, marker="o", ms=4, label=f"{CACHENET}, by budget", zorder=5)
    default = rows[CACHENET]
    value = 100 * default["streaming_f1"]
    low, high = (100 * bound for bound in default["interval"] or (value / 100, value / 100))
    bars = np.maximum(0, [[value - low], [high - value]])
    axes.errorbar(100 * default["asked"], value, yerr=bars, fmt="o", color="black", ms=8, capsize=3, zorder=6)
    floor = 100 * result["floor"]["streaming_f1"]
    axes.axhline(floor, color=_FAINT, lw=1, ls="--", zorder=1)
    axes.annotate("every frame asked and carried", (100, floor), ha="right", va="bottom", fontsize=8, color=_FAINT)
    values = np.concatenate([own[:, 1], *(100 * np.array(rows[name]["curve"])[:, 1] for name in ("react", "carry"))])
    axes.set_ylim(max(0, values.min() - 5), min(101, max(values.max(), floor, high) + 3))
    axes.set_xlim(-2, 102)
    axes.set_xlabel("share of frames asked, %", color=_INK)
    axes.set_ylabel("streaming F1, %", color=_INK)
    axes.set_title(
        f"{result['video']}, link {result['link']}: replies {_frames(result['late'])} late", fontsize=10, color=_INK
    )
    axes.grid(color="#ececec", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.text(
        0.5, 0.01, "Settings are chosen on the build frames. Bar: 95 % interval over blocks of 30 frames.",
        ha="center", fontsize=8, color=_FAINT,
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, format="png")
