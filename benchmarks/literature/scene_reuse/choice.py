"""Ways to choose a submodel from the store for a place of which some seconds have been seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.literature.scene_reuse.key import SceneKey, distances, mix
from benchmarks.literature.scene_reuse.trial import CASES, Case, Store, Trial
from cachenet.shared.cascade.detect.detections import pooled_f1

#: Weights of the mix that are tried on other places.
WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0)
#: Submodels of a shortlist.
SHORTLIST = 4
#: Number of the general model.
GENERAL = 0

#: Numbers of the models that a way chooses from with equal probability.
Choice = list[int]
Way = Callable[[Trial, Case], Choice]


def audited(trial: Trial, questions: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Rows of the footage that the full model is asked about, evenly spread."""
    return np.unique(np.linspace(0, len(trial.labels) - 1, questions).round().astype(np.int64))


def most_agreeing(trial: Trial, numbers: Sequence[int], questions: int) -> int:
    """The model that agrees most with the full model on audited frames; of equal ones the most certain."""
    rows = audited(trial, questions)

    def quality(number: int) -> tuple[float, float]:
        found = trial.outcomes[number]
        return pooled_f1(found.audits[rows]), float(found.certainty[rows].mean())

    return max(numbers, key=quality)


@dataclass(frozen=True, eq=False)
class Nearest:
    """Chooses the submodel of the nearest key.

    Attributes:
        labels: Number of labels of the mix.
        questions: Questions to the full model, for the mix.
        weight: Weight of the mix.
    """

    store: Store
    labels: int
    questions: int
    weight: float

    def ordered(self, trial: Trial, case: Case) -> list[tuple[float, int]]:
        """Distance and number of each submodel, the nearest first; of equal ones the newest first."""
        numbers = self.store.at(trial, case)[::-1]
        if not numbers:
            return []
        rows = audited(trial, self.questions) if self.questions else np.zeros(0, np.int64)
        key = SceneKey(trial.key.background, mix(trial.labels[rows], self.labels))
        weight = self.weight if self.questions else 0.0
        found = distances(key, [self.store.key(number) for number in numbers], weight)
        return sorted(zip(found.tolist(), numbers, strict=True), key=lambda pair: pair[0])

    def __call__(self, trial: Trial, case: Case) -> Choice:
        return [number for _, number in self.ordered(trial, case)[:1]] or [GENERAL]


def regret(trial: Trial, store: Store, case: Case, choice: Choice) -> float:
    """F1 of the best submodel on the measured frames, less the mean of the chosen ones."""
    best = max(pooled_f1(trial.outcomes[number].measured) for number in store.at(trial, case) or [GENERAL])
    return best - float(np.mean([pooled_f1(trial.outcomes[number].measured) for number in choice]))


def fitted(store: Store, labels: int, questions: int, trials: Sequence[Trial]) -> Nearest:
    """``Nearest`` with the weight of the least regret on ``trials``, which are of other places; the least such one."""

    def mean(weight: float) -> float:
        way = Nearest(store, labels, questions, weight)
        return float(np.mean([regret(one, store, case, way(one, case)) for one in trials for case in CASES]))

    return min((Nearest(store, labels, questions, weight) for weight in WEIGHTS), key=lambda one: mean(one.weight))


def ways(store: Store, labels: int, questions: Sequence[int], trials: Sequence[Trial]) -> dict[str, Way]:
    """All ways by name. What a way has to learn for a query, it learns from the ``trials`` of other places."""
    learned = {
        (place, asked): fitted(store, labels, asked, [one for one in trials if one.place != place])
        for place in {one.place for one in trials}
        for asked in questions
    }

    def newest(numbers: Sequence[int]) -> Choice:
        last = max((store.submodels[number - 1].time for number in numbers), default=0)
        return [number for number in numbers if store.submodels[number - 1].time == last] or [GENERAL]

    def camera(trial: Trial, case: Case) -> Choice:
        own = [one for one in store.at(trial, case) if store.submodels[one - 1].camera == trial.camera]
        return newest(own)

    def name(trial: Trial, case: Case) -> Choice:
        own = [one for one in store.at(trial, case) if store.submodels[one - 1].place == trial.place]
        return newest(own) if own else camera(trial, case)

    def general(_trial: Trial, _case: Case) -> Choice:
        return [GENERAL]

    def best(trial: Trial, case: Case) -> Choice:
        numbers = store.at(trial, case) or [GENERAL]
        return [max(numbers, key=lambda number: pooled_f1(trial.outcomes[number].measured))]

    def agreeing(asked: int) -> Way:
        return lambda trial, case: [most_agreeing(trial, store.at(trial, case) or [GENERAL], asked)]

    def shortlist(asked: int) -> Way:
        def way(trial: Trial, case: Case) -> Choice:
            near = [number for _, number in learned[trial.place, 0].ordered(trial, case)[:SHORTLIST]]
            return [most_agreeing(trial, near or [GENERAL], asked)]

        return way

    def nearest(asked: int) -> Way:
        return lambda trial, case: learned[trial.place, asked](trial, case)

    return {
        "best in the store": best,
        "general": general,
        "newest": lambda trial, case: newest(store.at(trial, case)),
        "camera": camera,
        "name of the place": name,
        **{f"key, {asked} questions": nearest(asked) for asked in questions},
        **{f"audits, {asked} questions": agreeing(asked) for asked in questions if asked},
        **{f"key and audits, {asked} questions": shortlist(asked) for asked in questions if asked},
    }


def threshold(way: Nearest, trials: Sequence[Trial]) -> float:
    """The largest distance at which a submodel is reused, of the greatest mean F1 on ``trials`` in all cases."""
    rows = [
        (found[0][0], pooled_f1(one.outcomes[found[0][1]].measured) - pooled_f1(one.outcomes[GENERAL].measured))
        for one in trials
        for case in CASES
        if (found := way.ordered(one, case))
    ]
    rows.sort()
    gains = np.cumsum([0.0, *(gain for _, gain in rows)])
    at = int(gains.argmax())
    if at == 0:
        return -1.0
    # Half way to the next distance, because a new place is at neither of both.
    return (rows[at - 1][0] + rows[min(at, len(rows) - 1)][0]) / 2
