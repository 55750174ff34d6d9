"""L2 ``submodels`` and L2b ``base``: models on the device.

The submodels are a cache of models within a byte budget (CacheNet, arXiv 2007.01793, section IV); the one least
recently used goes first. Loading and freeing is the shell's business: it says what a model costs, and is told what to
drop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cachenet.shared.cascade.probability import Probabilities, are_scores, softmax
from cachenet.shared.cascade.types import Judge, LocalLevel, Score, Scores

#: Frames over which the labels seen are averaged, to say what is usual.
_USUAL = 10_000.0
#: The least share of frames that a submodel must be expected to answer to be fetched before anybody asks for it.
_WORTHWHILE = 0.01


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A loaded model.

    Attributes:
        coverage: Per label, the share of frames that it answers ``(classes,)`` (see ``bundle.Model``).
        cost: Resident bytes.
        seconds: Time of one run; 0 if nobody has measured it.
        level: What its answers are counted as.
        judge: Runs a full model that has early exits between its layers; None for others.
    """

    name: str
    score: Score
    temperature: float
    coverage: Probabilities
    cost: int = 0
    seconds: float = 0.0
    level: LocalLevel = "submodels"
    judge: Judge | None = None

    def run(self, view: object) -> tuple[Scores, Probabilities] | None:
        """Logits and calibrated probabilities of a frame's view, ``(classes,)`` each; None if the logits are not
        finite, or not one a label."""
        logits = self.score(view)
        return (logits, softmax(logits, self.temperature)) if are_scores(logits, len(self.coverage)) else None


class ModelCache:
    """The resident submodels, within a budget of bytes.

    Attributes:
        budget: Bytes that all residents together may cost.
        is_full: Whether one has had to go for another: from then on every one that comes costs one.
        residents: Who is here. Another tuple whenever one comes or goes.
    """

    def __init__(self, budget: int, base_coverage: Probabilities) -> None:
        """``base_coverage``: of the base model ``(classes,)``; zeros where there is none."""
        self.budget = budget
        self.is_full = False
        self._base_coverage = base_coverage
        self._resident: OrderedDict[str, LocalModel] = OrderedDict()  # the least recently used first
        self._usual: Probabilities = np.full(len(base_coverage), 1.0 / len(base_coverage))
        self.residents: tuple[LocalModel, ...] = ()

    def expect(self, labels: Probabilities) -> None:
        """The present frame's labels are expected with these probabilities ``(classes,)``."""
        self._usual = self._usual + (labels - self._usual) / _USUAL

    def recommend(self, others: Mapping[str, Probabilities]) -> str | None:
        """Which of ``others``, whose coverage is given, would answer most of what is usually seen and no resident
        does; None where it would be hardly anything."""
        best = np.max([self._base_coverage, *(model.coverage for model in self.residents)], axis=0)
        gains = {name: float(np.dot(self._usual, np.maximum(0.0, own - best))) for name, own in others.items()}
        name = max(gains, key=gains.__getitem__, default=None)
        return name if name is not None and gains[name] >= _WORTHWHILE else None

    def admit(self, model: LocalModel) -> list[str]:
        """Make ``model`` resident.

        Returns:
            Names of those that had to go. A model that can never fit is among them.
        """
        if model.cost > self.budget:
            return [model.name]
        self._resident.pop(model.name, None)
        gone = self.evict_to(self.budget - model.cost)
        self._resident[model.name] = model
        self.residents = tuple(self._resident.values())
        return gone

    def evict_to(self, budget: int) -> list[str]:
        """Drop residents until the rest costs at most ``budget`` bytes; the names dropped."""
        gone = []
        while self._resident and self.cost() > budget:
            name, _ = self._resident.popitem(last=False)
            gone.append(name)
            self.is_full = True
        self.residents = tuple(self._resident.values())
        return gone

    def cost(self) -> int:
        """Bytes of all residents together."""
        return sum(model.cost for model in self._resident.values())

    def touch(self, name: str) -> bool:
        """Count a hit or a recommendation as a use. False if the model is not resident."""
        if name not in self._resident:
            return False
        self._resident.move_to_end(name)
        return True

    def names(self) -> tuple[str, ...]:
        """Of the residents."""
        return tuple(sorted(self._resident))
