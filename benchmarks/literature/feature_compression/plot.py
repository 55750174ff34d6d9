"""Plot of agreement over bytes."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.literature.feature_compression.bandwidth import Sent
from cachenet.models.report.html_report import COLOURS


def plot(path: Path, title: str, features: dict[str, list[Sent]], rivals: list[Sent], product: Sent) -> None:
    """Write a PNG. Raises ``OSError``."""
    figure = Figure(figsize=(7, 4.6), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    kinds = list(dict.fromkeys(one.name.split()[0] for one in rivals))
    for number, kind in enumerate(kinds):
        points = sorted(one.point for one in rivals if one.name.split()[0] == kind)
        axes.plot(*_percent(points), "o", ms=4, color=COLOURS[number], label=kind, alpha=0.8)
    frontier, best = [], 0.0
    for nbytes, agreement in sorted(one.point for one in rivals):
        if agreement > best:
            frontier.append((nbytes, agreement))
            best = agreement
    axes.plot(*_percent(frontier), color="#999999", lw=1, label="best picture")
    for number, (name, levels) in enumerate(features.items(), len(kinds)):
        points = sorted(one.point for one in levels)
        axes.plot(*_percent(points), "s-", ms=5, color=COLOURS[number % len(COLOURS)], label=f"features, {name}")
    axes.plot(*_percent([product.point]), "k*", ms=10, label="sent today")
    axes.set_xscale("log")
    axes.set_xlabel("bytes of a question, mean")
    axes.set_ylabel("agreement with the full model, %")
    axes.set_title(title)
    axes.grid(color="#ececec")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, format="png")


def _percent(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [nbytes for nbytes, _ in points], [100 * agreement for _, agreement in points]
