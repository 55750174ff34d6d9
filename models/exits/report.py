"""The part of a report's page that is about caches between layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cachenet.models.report.html_report import COLOURS, figure_of, image, table


def section(found: dict[str, Any]) -> list[str]:
    """Caches between the full model's layers."""
    if not found:
        return []
    parts = [
        "<h2>Caches between the full model's layers</h2>",
        "<p>A request that one of them answers runs no further. Below, what thresholds from strict to loose would "
        "give; rings are what was proven.</p>",
        image(_against_time(found), "Accuracy against the time of a request, a curve for each way"),
    ]
    for way, own in found.items():
        parts.append(
            f"<p><code>{way}</code>: {own['ms']:.1f} ms a request where the whole model takes {own['whole_ms']:.1f}; "
            f"on average {own['effective_depth']:.0%} of its multiply-adds; {own['wrong']:.2%} answered otherwise than "
            "by the whole model.</p>"
        )
        rows = [
            (
                row["after"],
                row["kind"],
                f"{row['share']:.1%}",
                f"{row['reached']:.1%}",
                f"{row['answered']:.1%}",
                f"{row['false']:.2%}",
                f"{row['agreement']:.1%}",
                f"{row['lookup_ms']:.3f}",
                f"{row['bytes'] / 1e3:.0f}",
            )
            for row in own["caches"]
        ]
        head = ("after", "kind", "depth", "reached", "answered", "falsely", "agrees, asked alone", "lookup, ms", "kB")
        parts.append(table(head, rows))
    return parts


def _against_time(found: dict[str, Any]) -> Figure:
    figure = figure_of(9, 4.2)
    axes = figure.subplots()
    for (way, own), colour in zip(found.items(), COLOURS, strict=False):
        points = np.array([(point["ms"], 100 * point["accuracy"]) for point in own["curve"]])
        axes.plot(*points.T, color=colour, linewidth=1.8, label=way)
        axes.plot(own["ms"], 100 * own["accuracy"], "o", color=colour, fillstyle="none", markersize=9)
        whole = own["whole_ms"], 100 * own["whole_accuracy"]
    axes.plot(*whole, "s", color="#222222", markersize=6, label="whole model")
    axes.set(xlabel="milliseconds of a request, mean", ylabel="right, %", xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
