"""The report as one self-contained page: nothing is fetched, so it can be mailed, archived and read anywhere."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cachenet.models.exits.report import section
from cachenet.models.report.html_report import COLOURS, figure_of, image, page, table
from cachenet.models.report.reporting import Report
from cachenet.shared.bundle.manifest import Manifest

_INK, _FAINT, _OURS = "#222222", "#c9c9c9", "#0072B2"
#: Labels that get a colour or a column of their own.
_MANY = 40


def html(report: Report) -> str:
    """The HTML."""
    figures, manifest = report.figures, report.manifest
    base = manifest.only("base")
    parts = [
        f"<h1>{escape(manifest.name)}</h1>",
        f'<p class="faint">Version {figures["version"][:12]}, {"signed" if figures["signed"] else "not signed"}; '
        f"measured on {figures['frames']} frames that it was not made from.</p>",
        _certificates(manifest),
        _headline(figures),
        "<h2>Models</h2>",
        _models(figures["models"]),
        "<h2>Sure and right: risk against coverage</h2>",
        f"<p>The base model ({base}) answers the frames that it is surest of first. How many of its answers differ "
        "from the full model's, by what it is sure by; lower is better.</p>",
        image(_risk(report), "Risk against coverage of the base model, a curve for each score"),
        _areas(figures["scores"]),
        "<h2>What each model answers by itself</h2>",
        "<p>Share of a label's frames on which the model, without context, is sure and agrees with the full model.</p>",
        image(_coverage(report), "Coverage of each label by each model"),
        "<h2>Partitions</h2>",
        "<p>Frames by the full model's embedding, in its two principal directions; rings are the codes. Below, what "
        "each submodel is meant for.</p>",
        image(_map(report), "Map of the codes, and of each submodel's part"),
        "<h2>Confused pairs</h2>",
        f"<p>The commonest ways in which {base} differs from the full model.</p>",
        table(
            ("full model", f"{base} says", "frames"),
            [(pair["full"], pair["says"], pair["frames"]) for pair in figures["confusions"][base]],
        ),
        *section(figures["layers"]),
        "<h2>Made from</h2>",
        table(("what", ""), list(figures["provenance"].items())),
    ]
    return page(f"{manifest.name}: report", parts)


def _certificates(manifest: Manifest) -> str:
    rows = [
        (
            f"{one.max_disagreement:.1%}",
            f"{one.disagreement:.2%}",
            f"{one.at_most:.2%}",
            f"{one.asked:.1%}",
            one.blocks,
            "yes"
            if one.holds
            else f"no: {one.blocks_needed} blocks needed"
            if one.blocks_needed
            else "no, and more would not help",
        )
        for one in manifest.certificates
    ]
    head = ("budget", "measured disagreement", "at most", "asked", "blocks", "certified")
    return (
        "<h2>Certificates</h2><p>Share of all answers that disagree with the full model, on footage that nothing was "
        + ("fitted on, without audits.</p>" + table(head, rows))
    )


def _headline(figures: dict[str, Any]) -> str:
    rows = [
        (way.replace("_", " "), where, f"{row['asked']:.1%}", f"{row['disagreement']:.2%}")
        for way, places in figures["replays"].items()
        for where, row in places.items()
    ]
    return "<p>The cascade, replayed at its default budget without audits.</p>" + table(
        ("models", "on", "asked", "disagreement"), rows
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
    return table(("model", "role", "M parameters", "M multiply-adds", "kB", "ms", "accuracy", "agreement"), rows)


def _areas(scores: dict[str, dict[str, dict[str, float]]]) -> str:
    names = list(next(iter(scores.values())))
    rows = [
        (model, *(f"{1000 * own[name]['area']:.2f} ({own[name]['coverage_at_0.01']:.0%})" for name in names))
        for model, own in scores.items()
    ]
    note = "<p>Area under each curve, thousandths, and the share that can be answered at 1&nbsp;% risk.</p>"
    return note + table(("model", *names), rows)


def _risk(report: Report) -> Figure:
    figure = figure_of(9, 4.2)
    axes = figure.subplots()
    for (name, points), colour in zip(report.curves.items(), COLOURS, strict=False):
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
    figure = figure_of(2.6 + 0.62 * len(shown), 1.6 + 0.38 * len(models))
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
    figure = figure_of(11, 5.2 + 2.5 * rows)
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[5.2] + [2.5] * rows)
    axes = figure.add_subplot(grid[0, :])
    own = report.map
    often = np.bincount(own.labels, minlength=len(report.manifest.labels))
    named = np.sort(np.argsort(-often, kind="stable")[: len(COLOURS)])
    for label, colour in zip(named.tolist(), COLOURS, strict=False):
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
