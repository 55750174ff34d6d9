"""What ``model-builder`` shows people who read it in a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cachenet.shared.bundle.manifest import Bundle, Certificate


def models(bundle: Bundle, as_json: bool) -> None:
    """The models of a bundle and its certificates."""
    manifest = bundle.manifest
    about: dict[str, Any]
    rows: dict[str, dict[str, Any]] = {
        name: {
            "role": model.role,
            "parameters": model.parameters,
            "macs": model.macs,
            "bytes": model.bytes,
            "ms": model.milliseconds,
            "mean_coverage": round(sum(model.coverage) / len(model.coverage), 4),
        }
        for name, model in manifest.models.items()
    }
    if as_json:
        about = {"name": manifest.name, "models": rows, "signed": bool(bundle.signature)}
        about["certificates"] = msgspec.to_builtins(manifest.certificates)
        about["base_agreement"] = manifest.provenance.get("base agreement", "")
        print(json.dumps(about))
        return
    table = _table(manifest.name, ("model", "role"), ("params", "MACs", "kB", "ms", "coverage"))
    for name, row in rows.items():
        table.add_row(name, str(row["role"]), *_costs(row), f"{row['mean_coverage']:.1%}")
    console = Console(highlight=False)
    console.print(table)
    if manifest.certificates:
        console.print(certificates(manifest.certificates))
    if agreement := manifest.provenance.get("base agreement"):
        console.print(f"Base model agrees with the full model on {agreement}.")
    console.print("Signed." if bundle.signature else "Not signed.")


def certificates(several: Sequence[Certificate]) -> Table:
    """What was found on held-out footage with each budget."""
    confidence = several[0].confidence
    table = _table(
        f"disagreement with the full model, all answers, audits off (bounds at {confidence:.0%})",
        ("budget",),
        ("measured", "at most", "asked", "blocks", "needed", "certified"),
    )
    for one in several:
        needed = "" if one.holds else str(one.blocks_needed or "-")
        shares = (f"{one.disagreement:.2%}", f"{one.at_most:.2%}", f"{one.asked:.1%}")
        table.add_row(f"{one.max_disagreement:.1%}", *shares, str(one.blocks), needed, "yes" if one.holds else "no")
    return table


def layers(bundle: Bundle, as_json: bool) -> None:
    """The caches between the layers of a bundle's full model."""
    manifest = bundle.manifest
    if as_json:
        print(msgspec.json.encode({"name": manifest.name, "layers": manifest.layers}).decode())
        return
    whole = manifest.models[manifest.only("full")].bytes
    table = _table(
        f"{manifest.name}: caches between layers", ("way", "kind"), ("after", "kB", "of the model", "threshold")
    )
    for way, layers in manifest.layers.items():
        for layer in layers.caches:
            size = (f"{layer.bytes / 1e3:.0f}", f"{layer.bytes / whole:.1%}")
            table.add_row(way, layer.kind, f"{layer.share:.1%}", *size, f"{layer.threshold:.3f}")
    Console().print(table)


def report(figures: Mapping[str, Any]) -> None:
    """A report's figures."""
    console = Console()
    table = _table(figures["name"], ("model", "role"), ("params", "MACs", "kB", "ms", "accuracy", "agrees"))
    for name, row in figures["models"].items():
        accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
        table.add_row(name, row["role"], *_costs(row), accuracy, f"{row['agreement']:.1%}")
    console.print(table)

    areas = figures["scores"]
    names = list(next(iter(areas.values())))
    table = _table("area under risk against coverage, thousandths; share answered at 1 % risk", ("model",), names)
    for name, own in areas.items():
        table.add_row(name, *(f"{1000 * one['area']:.1f}, {one['coverage_at_0.01']:.0%}" for one in own.values()))
    console.print(table)

    for way, own in figures["layers"].items():
        title = (
            f"{way}: {own['ms']:.1f} ms a request for {own['whole_ms']:.1f}, {own['effective_depth']:.0%} of the "
            f"multiply-adds, {own['accuracy']:.1%} right for {own['whole_accuracy']:.1%}"
        )
        table = _table(title, ("cache after", "kind"), ("depth", "answers", "false", "lookup ms", "kB"))
        for row in own["caches"]:
            shares = (f"{row['share']:.1%}", f"{row['answered']:.1%}", f"{row['false']:.2%}")
            table.add_row(row["after"], row["kind"], *shares, f"{row['lookup_ms']:.3f}", f"{row['bytes'] / 1e3:.0f}")
        console.print(table)

    table = _table(
        "the cascade, replayed at its default budget without audits", ("models", "on"), ("asked", "disagrees")
    )
    for way, places in figures["replays"].items():
        for where, row in places.items():
            table.add_row(way.replace("_", " "), where, f"{row['asked']:.1%}", f"{row['disagreement']:.2%}")
    console.print(table)


def inspected(seen: Mapping[str, Any]) -> None:
    """What ``inspect`` found."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in seen.items():
        if isinstance(value, dict):
            shown = ", ".join(f"{key} {share:.1%}" for key, share in list(value.items())[:8])
            shown += f" and {len(value) - 8} more" if len(value) > 8 else ""
        elif isinstance(value, float):
            shown = f"{value:.1%}"
        else:
            shown = "\n".join(value) if isinstance(value, list) else str(value)
        # Labels from elsewhere are text, whatever is in them.
        table.add_row(name, Text("".join(one if one.isprintable() or one == "\n" else "?" for one in shown)))
    Console().print(table)


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in words:
        table.add_column(column, overflow="fold")  # names are long, and must be there to be copied
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    return table


def _costs(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['macs'] / 1e6:.0f} M",
        f"{row['bytes'] / 1e3:.0f}",
        f"{row['ms']:.2f}",
    )
