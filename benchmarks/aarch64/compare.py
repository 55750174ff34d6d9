"""Comparison of the answers of two processors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: The answers to each frame by model: numbers, scores, or rows of label, score, left, top, right and bottom.
Answers = Mapping[str, Sequence[object]]

#: Largest difference of a score or of a box's side, of models without another tolerance: those that compute in float.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Comparison:
    """The answers of one model, compared.

    Attributes:
        model: Name of the bundle and of the model.
        frames: Number of frames.
        equal: Frames whose answers are equal to the last bit.
        largest: Largest difference of a number; infinite where the numbers of objects differ.
        tolerance: Largest difference that passes; 0: the answers must be equal.

    Example:
        >>> [one] = compare({"base": [[0.0, 2.0]]}, {"base": [[0.0, 2.5]]}, tolerances={"base": 0.1})
        >>> one.equal, one.largest, one.within_tolerance
        (0, 0.5, False)
    """

    model: str
    frames: int
    equal: int
    largest: float
    tolerance: float

    @property
    def within_tolerance(self) -> bool:
        return self.frames > 0 and self.largest <= self.tolerance


def compare(known: Answers, found: Answers, tolerances: Mapping[str, float]) -> list[Comparison]:
    """Compare the answers of two processors, model by model.

    Args:
        known: Answers of the one processor.
        found: Answers of the other.
        tolerances: Largest differences by model, where it is not ``TOLERANCE``.
    """
    models = [*known, *(model for model in found if model not in known)]
    return [
        _compare(model, known.get(model, ()), found.get(model, ()), tolerances.get(model, TOLERANCE))
        for model in models
    ]


def _compare(model: str, known: Sequence[object], found: Sequence[object], tolerance: float) -> Comparison:
    differences = [_difference(*pair) for pair in zip(known, found, strict=False)]
    if len(known) != len(found):
        differences.append(float("inf"))
    return Comparison(model, len(known), differences.count(0.0), max(differences, default=0.0), tolerance)


def _difference(known: object, found: object) -> float:
    """Largest difference of two answers; 0 if they are equal, infinite if they cannot be compared."""
    if known == found:
        return 0.0
    one, other = np.asarray(known), np.asarray(found)
    if one.dtype.kind not in "iuf" or other.dtype.kind not in "iuf" or one.shape != other.shape:
        return float("inf")
    largest = float(np.abs(one - other).max())
    return largest if largest >= 0 else float("inf")  # NaN
