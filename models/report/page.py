"""The report on a bundle as a self-contained HTML page."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cachenet.models.report import tables
from cachenet.models.report.html_report import COLOURS, figure_of, image, page, plot, table
from cachenet.models.report.reporting import Report
from cachenet.models.report.tables import Table

_INK, _FAINT, _HIGHLIGHT = "#222222", "#c9c9c9", "#0072B2"
#: Labels that get a column of their own.
_MANY = 40


def html(report: Report) -> str:
    """The page."""
    results, manifest = report.results, report.manifest
    base = manifest.only("base")
    parts = [
        f"<h1>{escape(manifest.name)}</h1>",
        f'<p class="faint">Version {results["version"][:12]}, {"signed" if results["signed"] else "not signed"}; '
        f"measured on {results['frames']} frames that it was not built from.</p>",
        "<h2>Certificates</h2>",
        *_html(tables.certificates(manifest.certificates)),
        *_html(tables.replays(results["replays"])),
        "<h2>Models</h2>",
        *_html(tables.models(manifest.name, results["models"])),
        "<h2>Risk against coverage</h2>",
        f"<p>The base model ({base}) answers first the frames with the best score. The curves show the share of its "
        "answers that differ from the full model's, one curve for each score; lower is better.</p>",
        image(_risk(report), "Risk against coverage of the base model, a curve for each score"),
        *_html(tables.scores(results["scores"])),
        "<h2>Coverage of each model</h2>",
        "<p>Share of a label's frames on which the model alone, without context, is confident and agrees with the full "
        "model.</p>",
        image(_coverage(report), "Coverage of each label by each model"),
        "<h2>Partitions</h2>",
        "<p>Frames by the full model's embedding, in its two principal directions; rings are cluster centres. Below, "
        "the labels of each submodel.</p>",
        image(_map(report), "Map of the clusters, and of each submodel's labels"),
        "<h2>Confused pairs</h2>",
        f"<p>The most frequent differences between {base} and the full model.</p>",
        table(
            ("full model", base, "frames"),
            [(pair["full"], pair["says"], pair["frames"]) for pair in results["confusions"][base]],
        ),
        *_exits(results["layers"]),
        "<h2>Provenance</h2>",
        table(("what", ""), list(results["provenance"].items())),
    ]
    return page(f"{manifest.name}: report", parts)


def _html(made: Table) -> list[str]:
    return [f"<p>{escape(made.title)}</p>", table((*made.words, *made.numbers), made.rows)]


def _exits(kinds: dict[str, Any]) -> list[str]:
    """The section about early exits."""
    if not kinds:
        return []
    parts = [
        "<h2>Early exits of the full model</h2>",
        "<p>A request that an exit answers runs no further. The curves show thresholds from strict to loose; rings are "
        "the certified ones.</p>",
        image(_accuracy_against_time(kinds), "Accuracy against the time of a request, a curve for each kind"),
    ]
    return parts + [part for made in tables.exits(kinds) for part in _html(made)]


def _accuracy_against_time(kinds: dict[str, Any]) -> Figure:
    figure, axes = plot(9, 4.2)
    for (kind, own), colour in zip(kinds.items(), COLOURS, strict=False):
        points = np.array([(point["ms"], 100 * point["accuracy"]) for point in own["curve"]])
        axes.plot(*points.T, color=colour, linewidth=1.8, label=kind)
        axes.plot(own["ms"], 100 * own["accuracy"], "o", color=colour, fillstyle="none", markersize=9)
        whole = own["whole_ms"], 100 * own["whole_accuracy"]
    axes.plot(*whole, "s", color=_INK, markersize=6, label="whole model")
    axes.set(xlabel="milliseconds of a request, mean", ylabel="right, %", xlim=(0, None))
    axes.legend(frameon=False)
    return figure


def _risk(report: Report) -> Figure:
    figure, axes = plot(9, 4.2)
    for (name, points), colour in zip(report.curves.items(), COLOURS, strict=False):
        coverage, risk = np.array(points).T
        axes.plot(100 * coverage, 100 * risk, color=colour, linewidth=1.8, label=name)
    axes.axhline(1, color=_FAINT, linewidth=1)
    axes.set(xlabel="frames answered, %", ylabel="of them wrong, %", xlim=(0, 100), ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def _coverage(report: Report) -> Figure:
    models = [name for name, model in report.manifest.models.items() if model.role != "full"]
    shares = np.array([report.manifest.models[name].coverage for name in models])
    shown = np.sort(np.argsort(-shares.max(0), kind="stable")[:_MANY])
    figure = figure_of(2.6 + 0.62 * len(shown), 1.6 + 0.38 * len(models))
    axes = figure.subplots()
    axes.imshow(shares[:, shown], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(shown)), [report.manifest.labels[label] for label in shown], rotation=45, ha="right")
    axes.set_yticks(range(len(models)), models)
    for row, name in enumerate(models):
        for column, label in enumerate(shown.tolist()):
            share = shares[row, label]
            axes.text(
                column,
                row,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if share > 0.6 else _INK,
                fontweight="bold" if label in report.manifest.models[name].classes else "normal",
            )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _map(report: Report) -> Figure:
    submodels = [name for name in report.manifest.submodels() if report.manifest.models[name].classes]
    columns = 4
    rows = -(-len(submodels) // columns)
    figure = figure_of(11, 5.2 + 2.5 * rows)
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[5.2] + [2.5] * rows)
    axes = figure.add_subplot(grid[0, :])
    own = report.map
    counts = np.bincount(own.labels, minlength=len(report.manifest.labels))
    named = np.sort(np.argsort(-counts, kind="stable")[: len(COLOURS)])
    for label, colour in zip(named.tolist(), COLOURS, strict=False):
        if not counts[label]:
            continue
        points = own.points[own.labels == label]
        axes.scatter(points[:, 0], points[:, 1], s=5, color=colour, linewidths=0, alpha=0.5)
        x, y = np.median(points, 0)
        axes.text(x, y, report.manifest.labels[label], fontweight="bold", ha="center", color=_INK)
    axes.scatter(own.centres[:, 0], own.centres[:, 1], s=45, facecolors="none", edgecolors=_INK, linewidths=1)
    panels = [axes]
    for number, name in enumerate(submodels):
        panel = figure.add_subplot(grid[1 + number // columns, number % columns])
        inside = np.isin(own.labels, report.manifest.models[name].classes)
        for points, size, colour in ((own.points[~inside], 2, _FAINT), (own.points[inside], 3, _HIGHLIGHT)):
            panel.scatter(points[:, 0], points[:, 1], s=size, color=colour, linewidths=0)
        panel.set_title(name, fontsize=8)
        panels.append(panel)
    for panel in panels:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
    return figure
