"""A store of submodels and the queries to it: what each submodel would have answered at each place and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmarks.literature.scene_reuse.key import SceneKey
from cachenet.models.certify.intervals import Counts

#: What the store has of a queried place: its own earlier submodels too, only those of other places, or only those of
#: other cameras.
Case = Literal["returning", "neighbours", "elsewhere"]
CASES: tuple[Case, ...] = ("returning", "neighbours", "elsewhere")


@dataclass(frozen=True, eq=False)
class Submodel:
    """A submodel of the store: the place and the time that it was trained on, and their key."""

    place: str
    camera: str
    time: int
    key: SceneKey


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What one model answers at a place and time.

    Attributes:
        audits: Counts of the footage's frames ``(k, 3)``; see ``intervals.Counts``. For a classifier a right answer is
            one true positive, and a wrong one is one false positive and one false negative: F1 is the agreement.
        certainty: Log-probability of the full model's label on the footage's frames ``(k,)``; zeros for a detector.
        measured: Counts of the measured frames ``(n, 3)``.
    """

    audits: Counts
    certainty: npt.NDArray[np.float64]
    measured: Counts


@dataclass(frozen=True, eq=False)
class Trial:
    """A query: a place at a time, with some seconds of footage.

    Attributes:
        key: Key of the footage.
        labels: Label of the full model on each of the footage's frames ``(k,)``.
        outcomes: Of the general model, and then of each submodel of the store.
        pooled: Measured counts of one general model that was fine-tuned on all footage of earlier times.
    """

    place: str
    camera: str
    time: int
    key: SceneKey
    labels: npt.NDArray[np.int64]
    outcomes: Sequence[Outcomes]
    pooled: Counts


@dataclass(frozen=True, eq=False)
class Store:
    """Submodels of the fleet. The number of a submodel is its place in ``submodels`` plus 1; 0 is the general model."""

    submodels: Sequence[Submodel]

    def at(self, trial: Trial, case: Case) -> list[int]:
        """Numbers of the submodels that a query may choose."""
        return [
            number
            for number, one in enumerate(self.submodels, 1)
            if one.time < trial.time
            and not (case == "neighbours" and one.place == trial.place)
            and not (case == "elsewhere" and one.camera == trial.camera)
        ]

    def key(self, number: int) -> SceneKey:
        """Key of a submodel."""
        return self.submodels[number - 1].key
