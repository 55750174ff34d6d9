"""L2 ``submodels`` and L2b ``base``: models that answer when the context and their own word leave little risk.

The submodels are a cache of models within a byte budget (CacheNet, arXiv 2007.01793, section IV). Loading and freeing
is the shell's business: it says what a model costs, and is told what to drop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_agent.core.frame import Frame
from edge_agent.core.replacement import Policy, Replacement
from edge_agent.core.types import Guess, LocalName, Score
from shared.context import Context, Word
from shared.gate import Posterior, posterior


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
        word = Word(posterior(self.score(frame.view), self.temperature), key=frame.signature)
        return Guess(context.fuse(word), self.name, word)


class Base:
    """The general model: never evicted, the answer of last resort."""

    name: LocalName = "base"

    def __init__(self, model: LocalModel) -> None:
        self.model = model

    def lookup(self, frame: Frame, context: Context) -> Guess:
        return self.model.guess(frame, context)


class Submodels:
    """The resident submodels, within a budget; who goes first is the replacement policy's to say."""

    name: LocalName = "submodels"

    def __init__(self, budget: int, base_coverage: Posterior, policy: Policy = "lru") -> None:
        """``budget``: bytes all residents together may cost."""
        self.budget = budget
        #: Whether one has had to go for another: from then on every one that comes costs one.
        self.tight = False
        self._base_coverage = base_coverage
        self._replacement = Replacement(policy)
        self._resident: dict[str, LocalModel] = {}
        self.labels = np.full(len(base_coverage), 1.0 / len(base_coverage))

    def lookup(self, frame: Frame, context: Context) -> Guess | None:
        """The word of the resident that covers the present working set best; None where the base model covers it
        as well, since a probe costs the same."""
        if not self._resident:
            return None
        self.labels = context.working_set()
        best = max(self._resident.values(), key=lambda model: float(np.dot(self.labels, model.coverage)))
        if np.dot(self.labels, best.coverage) <= np.dot(self.labels, self._base_coverage):
            return None
        self._replacement.use(best.name)
        return best.guess(frame, context)

    def admit(self, model: LocalModel) -> list[str]:
        """Make ``model`` resident; return the names that had to go. A model that can never fit is among them."""
        if model.cost > self.budget:
            return [model.name]
        if model.name in self._resident:
            self._drop(model.name)
        gone = self.shrink(self.budget - model.cost)
        self._resident[model.name] = model
        self._replacement.add(model.name, model.cost, np.maximum(0.0, model.coverage - self._base_coverage))
        return gone

    def shrink(self, budget: int) -> list[str]:
        """Drop residents until the rest costs at most ``budget`` bytes; return the names dropped."""
        gone = []
        while self._resident and self.cost() > budget:
            gone.append(self._replacement.victim(self._resident, self.labels))
            self._drop(gone[-1])
            self.tight = True
        return gone

    def cost(self) -> int:
        """Bytes of all residents together."""
        return sum(model.cost for model in self._resident.values())

    def touch(self, name: str) -> bool:
        """Count a recommendation as a use. False if the model is not resident."""
        if name not in self._resident:
            return False
        self._replacement.use(name)
        return True

    def names(self) -> tuple[str, ...]:
        return tuple(self._resident)

    def _drop(self, name: str) -> None:
        del self._resident[name]
        self._replacement.drop(name)
