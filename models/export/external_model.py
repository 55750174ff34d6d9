"""A base model that the user has: what it must be, to answer in a full model's place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cachenet.models.export import cost
from cachenet.models.export.classifier import Classifier, ClassifierError, understand
from cachenet.shared.inference.image import Input


def read(
    path: Path, full: Classifier, preprocessing: Input | None = None, labels: tuple[str, ...] | None = None
) -> Classifier:
    """The classifier in ``path``, with the labels of ``full``. ``labels``: what the user calls those of both. Raises
    ``ClassifierError`` if it does not fit."""
    own = understand(path, preprocessing, labels, role="base")
    count = len(full.labels)
    if len(own.labels) != count:
        raise ClassifierError(f"{path.name} has {len(own.labels)} classes, and the full model has {count}")
    numbers = tuple(str(number) for number in range(count))
    if numbers not in (own.labels, full.labels) and own.labels != full.labels:
        place = next(place for place in range(count) if own.labels[place] != full.labels[place])
        raise ClassifierError(
            f"{path.name} calls label {place} {own.labels[place]!r} and the full model {full.labels[place]!r}; "
            "if all mean the same, name them with --labels"
        )
    if not _same_part(own.input, full.input):
        raise ClassifierError(
            f"{path.name} sees frames by {_fit(own.input)} and the full model by {_fit(full.input)}: they must see the "
            "same part of a frame, so stretch it for both (as in unit,stretch) or give a base model of the same shape"
        )
    macs, most = (cost.macs(one.graph, one.input.size) for one in (own, full))
    if macs > most > 0:
        raise ClassifierError(
            f"{path.name} takes {macs / 1e6:.3g} million multiply-adds and the full model {most / 1e6:.3g}; "
            "a base model must be the smaller one"
        )
    return replace(own, labels=full.labels)


def _same_part(one: Input, other: Input) -> bool:
    """Whether what one model sees of a frame can be had from what the other sees, whatever the frame's size."""
    (width, height), (wide, high) = one.size, other.size
    return one.fit == other.fit and (one.fit == "stretch" or width * high == height * wide)


def _fit(spec: Input) -> str:
    return "{} to {}x{}".format(spec.fit, *spec.size)
