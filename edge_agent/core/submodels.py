"""L2 ``submodels`` and L2b ``base``: models that answer when the context and their own word leave little risk.

The submodels are a cache of models within a byte budget, replaced least recently used first (CacheNet, arXiv
2007.01793, section IV). Loading and freeing is the shell's business: it says what a model costs, and is told what
to drop.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from edge_agent.core.frame import Frame
from edge_agent.core.types import Guess, LocalName, Score
from shared.context import Context
from shared.gate import Posterior, posterior, risk


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A loaded model. ``coverage``: per label, the share of frames it answers (see ``bundle.Model``). ``cost``:
    resident bytes."""

    name: str
    score: Score
    temperature: float
    coverage: Posterior
    cost: int = 0

    def guess(self, frame: Frame, context: Context) -> Guess:
        likelihood = posterior(self.score(frame.view), self.temperature)
        fused = context.fuse(likelihood)
        # A false hit is one that the full model would not have given. Where it has just spoken about this very
        # picture it has nothing to add, however unsure it was; asking again would only cost a round trip.
        return Guess(fused, risk(fused) * (1.0 - context.settled), self.name, likelihood)


class Base:
    """The general model: never evicted, the answer of last resort."""

    name: LocalName = "base"

    def __init__(self, model: LocalModel) -> None:
        self.model = model

    def lookup(self, frame: Frame, context: Context) -> Guess:
        return self.model.guess(frame, context)


class Submodels:
    """The resident submodels, least recently used first."""

    name: LocalName = "submodels"

    def __init__(self, budget: int, base_coverage: Posterior) -> None:
        """``budget``: bytes all residents together may cost."""
        self.budget = budget
        self._base_coverage = base_coverage
        self._resident: OrderedDict[str, LocalModel] = OrderedDict()

    def lookup(self, frame: Frame, context: Context) -> Guess | None:
        """The word of the resident that covers the present working set best; None where the base model covers it
        as well, since a probe costs the same."""
        if not self._resident:
            return None
        labels = context.working_set()
        best = max(self._resident.values(), key=lambda model: float(np.dot(labels, model.coverage)))
        if np.dot(labels, best.coverage) <= np.dot(labels, self._base_coverage):
            return None
        self._resident.move_to_end(best.name)
        return best.guess(frame, context)

    def admit(self, model: LocalModel) -> list[str]:
        """Make ``model`` resident; return the names that had to go. A model that can never fit is among them."""
        if model.cost > self.budget:
            return [model.name]
        self._resident.pop(model.name, None)
        gone = self.shrink(self.budget - model.cost)
        self._resident[model.name] = model
        return gone

    def shrink(self, budget: int) -> list[str]:
        """Drop the least recently used until the rest costs at most ``budget`` bytes; return the names dropped."""
        gone = []
        while self._resident and self.cost() > budget:
            gone.append(self._resident.popitem(last=False)[0])
        return gone

    def cost(self) -> int:
        """Bytes of all residents together."""
        return sum(model.cost for model in self._resident.values())

    def touch(self, name: str) -> bool:
        """Count a recommendation as a use. False if the model is not resident."""
        if name not in self._resident:
            return False
        self._resident.move_to_end(name)
        return True

    def names(self) -> tuple[str, ...]:
        return tuple(self._resident)
