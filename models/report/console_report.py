"""Shows bundles and reports in a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from rich import table as rich_table
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.text import Text

from cachenet.models.report import tables
from cachenet.models.report.tables import Table
from cachenet.shared.bundle.manifest import Bundle

#: Results of an inspection that are no shares.
_NUMBERS = {"boxes_per_frame", "score", "overlap", "mean_score"}


def models(bundle: Bundle, as_json: bool) -> None:
    """Show the models of a bundle and its certificates."""
    manifest = bundle.manifest
    if manifest.task == "detection":
        detectors(bundle, as_json)
        return
    rows: dict[str, dict[str, Any]] = {
        name: tables.model_row(model) | {"mean_coverage": round(sum(model.coverage) / len(model.coverage), 4)}
        for name, model in manifest.models.items()
    }
    if as_json:
        shown = {
            "name": manifest.name,
            "models": rows,
            "signed": bundle.signed,
            "certificates": msgspec.to_builtins(manifest.certificates),
            "base_agreement": manifest.provenance.get("base agreement", ""),
        }
        print(json.dumps(shown))
        return
    cells = [(name, row["role"], *tables.costs(row), f"{row['mean_coverage']:.1%}") for name, row in rows.items()]
    console = Console(highlight=False)
    console.print(_rich(Table(manifest.name, ("model", "role"), (*tables.COSTS, "coverage"), cells)))
    if manifest.certificates:
        console.print(_rich(tables.certificates(manifest.certificates)))
    if agreement := manifest.provenance.get("base agreement"):
        console.print(f"Base model agrees with the full model on {agreement}.")
    console.print("Signed." if bundle.signed else "Not signed.")


def detectors(bundle: Bundle, as_json: bool) -> None:
    """Show the models of a bundle of detectors, with F1 against the full model where the builder measured it."""
    manifest = bundle.manifest
    rows: dict[str, dict[str, Any]] = {
        name: tables.model_row(model) | {"f1": model.coverage[0] if model.coverage else None}
        for name, model in manifest.models.items()
    }
    about = {part: manifest.provenance.get(part, "") for part in ("frames", "objects", "tracks")}
    if as_json:
        print(json.dumps({"name": manifest.name, "models": rows, "signed": bundle.signed, **about}))
        return
    cells = [
        (name, row["role"], *tables.costs(row), "" if row["f1"] is None else f"{row['f1']:.3f}")
        for name, row in rows.items()
    ]
    console = Console(highlight=False)
    console.print(_rich(Table(manifest.name, ("model", "role"), (*tables.COSTS, "F1"), cells)))
    for part, text in about.items():
        if text:
            console.print(f"{part.capitalize()}: {text}.")
    if certified := manifest.provenance.get("certified on"):
        console.print(f"Certified on: {certified}.")
    console.print("Signed." if bundle.signed else "Not signed.")


def exits(bundle: Bundle, as_json: bool) -> None:
    """Show the early exits of a bundle's full model."""
    manifest = bundle.manifest
    if as_json:
        print(msgspec.json.encode({"name": manifest.name, "layers": manifest.layers}).decode())
        return
    full = manifest.models[manifest.only("full")].bytes
    rows = [
        (
            kind,
            one.kind,
            f"{one.share:.1%}",
            f"{one.bytes / 1e3:.0f}",
            f"{one.bytes / full:.1%}",
            f"{one.threshold:.3f}",
        )
        for kind, several in manifest.layers.items()
        for one in several.caches
    ]
    head = ("after", "kB", "of the model", "threshold")
    Console().print(_rich(Table(f"{manifest.name}: early exits", ("exit", "kind"), head, rows)))


def report(results: Mapping[str, Any]) -> None:
    """Show the results of a report."""
    console = Console()
    for table in (
        tables.models(results["name"], results["models"]),
        tables.scores(results["scores"]),
        *tables.exits(results["layers"]),
        tables.replays(results["replays"]),
    ):
        console.print(_rich(table))


def detector_report(results: dict[str, Any]) -> None:
    """Show the results of a report on detectors."""
    from cachenet.models.report.detector_report import models_table, sizes_table

    console = Console(highlight=False)
    console.print(_rich(models_table(results)))
    console.print(_rich(sizes_table(results)))


def parts(results: dict[str, Any]) -> None:
    """Show the frames behind most errors, the learning curve, or both."""
    from cachenet.models.report import learning_curve, worst

    console = Console(highlight=False)
    if "worst" in results:
        console.print(_rich(worst.table(results["worst"])))
    if "learning_curve" in results:
        console.print(_rich(learning_curve.table(results["learning_curve"])))
        for line in learning_curve.sentences(results["learning_curve"]):
            console.print(f"{line}.")


def inspection(found: Mapping[str, Any]) -> None:
    """Show the result of an inspection: of a classifier with shares, of a detector with boxes in a frame."""
    table = rich_table.Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in found.items():
        if isinstance(value, dict):
            number = ".2f" if "boxes_per_frame" in found else ".1%"
            shown = ", ".join(f"{key} {share:{number}}" for key, share in list(value.items())[:8])
            shown += f" and {len(value) - 8} more" if len(value) > 8 else ""
        elif isinstance(value, float):
            shown = f"{value:.2f}" if name in _NUMBERS else f"{value:.1%}"
        else:
            shown = "\n".join(value) if isinstance(value, list) else str(value)
        # A user's labels are shown as plain text: no markup and no control characters.
        table.add_row(
            name.replace("_", " "), Text("".join(one if one.isprintable() or one == "\n" else "?" for one in shown))
        )
    Console().print(table)


def _rich(table: Table) -> rich_table.Table:
    made = rich_table.Table(title=table.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in table.words:
        made.add_column(column, overflow="fold")  # a long name is folded, so that it can be copied
    for column in table.numbers:
        made.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    for row in table.rows:
        made.add_row(*row)
    return made
