"""Reads a user's base model and checks that it fits the full model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cachenet.models.export import cost
from cachenet.models.export.classifier import Classifier, ClassifierError, load_classifier
from cachenet.shared.inference.image import Input


def read(
    path: Path, full: Classifier, preprocessing: Input | None = None, labels: tuple[str, ...] | None = None
) -> Classifier:
    """Read the classifier in ``path``; it gets the labels of ``full``.

    Args:
        preprocessing: See ``classifier.understand``.
        labels: User's labels of both models; None for those in the metadata.

    Raises:
        ClassifierError: Labels, crop or size do not fit.
    """
    own = load_classifier(path, preprocessing, labels, role="base")
    count = len(full.labels)
    if len(own.labels) != count:
        raise ClassifierError(f"{path.name} has {len(own.labels)} classes, and the full model has {count}")
    numbers = tuple(str(number) for number in range(count))
    if numbers not in (own.labels, full.labels) and own.labels != full.labels:
        first = next(number for number in range(count) if own.labels[number] != full.labels[number])
        raise ClassifierError(
            f"{path.name} calls label {first} {own.labels[first]!r} and the full model {full.labels[first]!r}; "
            "if all mean the same, name them with --labels"
        )
    if not _same_crop(own.input, full.input):
        raise ClassifierError(
            f"{path.name} sees frames by {_fit(own.input)} and the full model by {_fit(full.input)}: they must see the "
            "same part of a frame, so stretch it for both (as in unit,stretch) or give a base model of the same shape"
        )
    macs, full_macs = (cost.macs(model.graph, model.input.size) for model in (own, full))
    if macs > full_macs > 0:
        raise ClassifierError(
            f"{path.name} takes {macs / 1e6:.3g} million multiply-adds and the full model {full_macs / 1e6:.3g}; "
            "a base model must be the smaller one"
        )
    return replace(own, labels=full.labels)


def _same_crop(base: Input, full: Input) -> bool:
    """Whether the input of one model can be computed from the other's, for frames of any size."""
    (width, height), (full_width, full_height) = base.size, full.size
    return base.fit == full.fit and (base.fit == "stretch" or width * full_height == height * full_width)


def _fit(spec: Input) -> str:
    return "{} to {}x{}".format(spec.fit, *spec.size)
