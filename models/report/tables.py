"""Tables of a report, shown in a terminal (``console_report``) and on a page (``page``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cachenet.shared.bundle.manifest import Certificate, Model


class Table(NamedTuple):
    """A table: ``words`` name its columns of text, ``numbers`` its columns of numbers; the cells of a row are text."""

    title: str
    words: Sequence[str]
    numbers: Sequence[str]
    rows: Sequence[Sequence[str]]


def certificates(several: Sequence[Certificate]) -> Table:
    """Measured and certified disagreement with each budget, on held-out footage."""
    confidence = several[0].confidence if several else 0.95
    return Table(
        f"disagreement with the full model, all answers, audits off (bounds at {confidence:.0%})",
        ("budget",),
        ("measured", "at most", "asked", "blocks", "needed", "certified"),
        [
            (
                f"{one.max_disagreement:.1%}",
                f"{one.disagreement:.2%}",
                f"{one.at_most:.2%}",
                f"{one.asked:.1%}",
                str(one.blocks),
                "" if one.holds else str(one.blocks_needed or "-"),
                "yes" if one.holds else "no",
            )
            for one in several
        ],
    )


def model_row(model: Model) -> dict[str, Any]:
    """Role and costs of a model, by name."""
    return {
        "role": model.role,
        "parameters": model.parameters,
        "macs": model.macs,
        "bytes": model.bytes,
        "ms": model.milliseconds,
    }


def costs(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Cells for the columns ``COSTS`` of a model."""
    return (
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['macs'] / 1e6:.0f} M",
        f"{row['bytes'] / 1e3:.0f}",
        f"{row['ms']:.2f}",
    )


#: Columns of a model's cost.
COSTS = ("params", "MACs", "kB", "ms")


def models(name: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Cost, accuracy and agreement of each model. ``rows``: figures by model name."""
    return Table(
        name,
        ("model", "role"),
        (*COSTS, "accuracy", "agrees"),
        [
            (
                model,
                row["role"],
                *costs(row),
                "" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
                f"{row['agreement']:.1%}",
            )
            for model, row in rows.items()
        ],
    )


def scores(areas: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Risk and coverage of each score, by local model."""
    names = list(next(iter(areas.values())))
    return Table(
        "area under risk against coverage, thousandths; share answered at 1 % risk",
        ("model",),
        names,
        [
            (model, *(f"{1000 * own[name]['area']:.1f}, {own[name]['coverage_at_0.01']:.0%}" for name in names))
            for model, own in areas.items()
        ],
    )


def exits(kinds: Mapping[str, Mapping[str, Any]]) -> Iterator[Table]:
    """A table of early exits for each kind."""
    for kind, own in kinds.items():
        yield Table(
            f"{kind}: {own['ms']:.1f} ms a request for {own['whole_ms']:.1f}, {own['effective_depth']:.0%} of the "
            f"multiply-adds, {own['accuracy']:.1%} right for {own['whole_accuracy']:.1%}, {own['wrong']:.2%} unlike "
            "the whole model",
            ("exit after", "kind"),
            ("depth", "reached", "answers", "false", "agrees alone", "lookup ms", "kB"),
            [
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
            ],
        )


def replays(sets: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Requests and disagreement of the cascade with each set of models."""
    return Table(
        "the cascade, replayed at its default budget without audits",
        ("models", "on"),
        ("asked", "disagrees"),
        [
            (name.replace("_", " "), stream, f"{row['asked']:.1%}", f"{row['disagreement']:.2%}")
            for name, streams in sets.items()
            for stream, row in streams.items()
        ],
    )
