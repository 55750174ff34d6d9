"""The report as one self-contained page: nothing is fetched, so it can be mailed, archived and read anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.reporting import Report

_INK, _FAINT, _OURS = "#222222", "#c9c9c9", "#0072B2"
# Okabe and Ito's palette, which the colour-blind can tell apart, and two greys.
_COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#B8A900",
    "#000000",
    "#7f7f7f",
    "#a0522d",
)
#: Labels that get a colour or a column of their own.
_MANY = 40

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; } p { max-width: 46rem; } .faint { color: #666; }
table { border-collapse: collapse; } td, th { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
td:first-child, th:first-child { text-align: left; } img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
"""


def html(report: Report) -> str:
    """The HTML."""
    figures, manifest = report.figures, report.manifest
    base = manifest.only("base")
    parts = [
        f"<h1>{escape(manifest.name)}</h1>",
        f'<p class="faint">Version {figures["version"][:12]}, {"signed" if figures["signed"] else "not signed"}; '
        f"measured on {figures['frames']} frames that it was not made from.</p>",
        _headline(figures),
        "<h2>Models</h2>",
        _models(figures["models"]),
        "<h2>Sure and right: risk against coverage</h2>",
        f"<p>The base model ({base}) answers the frames that it is surest of first. How many of its answers differ "
        "from the full model's, by what it is sure by. A gate is a point on such a curve; lower is better.</p>",
        _image(_risk(report), "Risk against coverage of the base model, a curve for each score"),
        _areas(figures["gate_scores"]),
        "<h2>What each model answers by itself</h2>",
        "<p>Share of a label's frames on which the model, without context, is sure and agrees with the full model.</p>",
        _image(_coverage(report), "Coverage of each label by each model"),
        "<h2>Partitions</h2>",
        "<p>Frames by the full model's embedding, in its two principal directions; rings are the codes. Below, what "
        "each submodel is meant for.</p>",
        _image(_map(report), "Map of the codes, and of each submodel's part"),
        "<h2>Confused pairs</h2>",
        f"<p>The commonest ways in which {base} differs from the full model.</p>",
        _table(
            ("full model", f"{base} says", "frames"),
            [(pair["full"], pair["says"], pair["frames"]) for pair in figures["confusions"][base]],
        ),
        "<h2>Made from</h2>",
        _table(("what", ""), list(figures["provenance"].items())),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(manifest.name)}: report</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _headline(figures: dict[str, Any]) -> str:
    sessions, about = figures["session_hits"], figures["streams"]
    if sessions is None:
        return "<p>There are too few frames of too few labels to draw streams from.</p>"
    selected, general = (next(iter(sessions[way].values())) for way in ("selected", "same_size_generalist"))
    rows = [
        (
            f"{where} scenes",
            f"{selected[where]['local']:.1%}",
            f"{general[where]['local']:.1%}",
            f"{100 * (selected[where]['local'] - general[where]['local']):+.1f} points",
            f"{selected[where]['false']:.2%}",
            f"{general[where]['false']:.2%}",
        )
        for where in selected
    ]
    head = (
        "answered locally",
        "with submodels",
        "general models alone",
        "difference",
        "false hits",
        "false hits, general alone",
    )
    return (
        f"<p>Stream <code>{about['name']}</code>: {about['streams']} streams of {about['frames']} frames, at a budget "
        "of 1&nbsp;% false hits, context in both.</p>" + _table(head, rows)
    )


def _models(models: dict[str, Any]) -> str:
    rows = [
        (
            name,
            row["role"],
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['macs'] / 1e6:.1f}",
            f"{row['bytes'] / 1e3:.0f}",
            f"{row['ms']:.2f}",
            "" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
            f"{row['agreement']:.1%}",
        )
        for name, row in models.items()
    ]
    return _table(("model", "role", "M parameters", "M multiply-adds", "kB", "ms", "accuracy", "agreement"), rows)


def _areas(scores: dict[str, dict[str, dict[str, float]]]) -> str:
    names = list(next(iter(scores.values())))
    rows = [
        (model, *(f"{1000 * own[name]['area']:.2f} ({own[name]['coverage_at_0.01']:.0%})" for name in names))
        for model, own in scores.items()
    ]
    note = "<p>Area under each curve, thousandths, and the share that can be answered at 1&nbsp;% risk.</p>"
    return note + _table(("model", *names), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def line(cells: Sequence[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table><thead>{line(head, "th")}</thead><tbody>\n{body}\n</tbody></table></div>'


def _image(figure: Figure, says: str) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130, metadata={"Software": None})
    return f'<img alt="{escape(says)}" src="data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}">'


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _risk(report: Report) -> Figure:
    figure = _figure(9, 4.2)
    axes = figure.subplots()
    for (name, points), colour in zip(report.curves.items(), _COLOURS, strict=False):
        coverage, risk = np.array(points).T
        axes.plot(100 * coverage, 100 * risk, color=colour, linewidth=1.8, label=name)
    axes.axhline(1, color=_FAINT, linewidth=1)
    axes.set(xlabel="frames answered, %", ylabel="of them wrong, %", xlim=(0, 100), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _coverage(report: Report) -> Figure:
    models = [name for name, model in report.manifest.models.items() if model.role != "full"]
    table = np.array([report.manifest.models[name].coverage for name in models])
    shown = np.sort(np.argsort(-table.max(0), kind="stable")[:_MANY])
    figure = _figure(2.6 + 0.62 * len(shown), 1.6 + 0.38 * len(models))
    axes = figure.subplots()
    axes.imshow(table[:, shown], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(shown)), [report.manifest.labels[label] for label in shown], rotation=45, ha="right")
    axes.set_yticks(range(len(models)), models)
    for row in range(len(models)):
        for column, label in enumerate(shown.tolist()):
            share = table[row, label]
            own = label in report.manifest.models[models[row]].classes
            axes.text(
                column,
                row,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if share > 0.6 else _INK,
                fontweight="bold" if own else "normal",
            )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _map(report: Report) -> Figure:
    submodels = [name for name in report.manifest.submodels() if report.manifest.models[name].classes]
    columns = 4
    rows = -(-len(submodels) // columns)
    figure = _figure(11, 5.2 + 2.5 * rows)
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[5.2] + [2.5] * rows)
    axes = figure.add_subplot(grid[0, :])
    own = report.map
    often = np.bincount(own.labels, minlength=len(report.manifest.labels))
    named = np.sort(np.argsort(-often, kind="stable")[: len(_COLOURS)])
    for label, colour in zip(named.tolist(), _COLOURS, strict=False):
        if not often[label]:
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
        for points, size, colour in ((own.points[~inside], 2, _FAINT), (own.points[inside], 3, _OURS)):
            panel.scatter(points[:, 0], points[:, 1], s=size, color=colour, linewidths=0)
        panel.set_title(name, fontsize=8)
        panels.append(panel)
    for panel in panels:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
    return figure
