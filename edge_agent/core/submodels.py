"""L2 ``submodels`` and L2b ``base``: models that answer where the context and their own word leave little risk.

The submodels are a cache of models within a byte budget (CacheNet, arXiv 2007.01793, section IV). Loading and freeing
is the shell's business: it says what a model costs, and is told what to drop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge_agent.core.frame import Frame
from edge_agent.core.replacement import Policy, Replacement
from edge_agent.core.types import Guess, Judge, LocalName, Score
from shared.context import Context
from shared.filter import Word
from shared.gate import Posterior, posterior

#: Frames over which the working set is averaged, to say what is usual.
_USUAL = 10_000.0
#: The least share of frames that a submodel must be expected to answer to be fetched before anybody asks for it.
_WORTHWHILE = 0.01


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A loaded model. ``coverage``: per label, the share of frames it answers (see ``bundle.Model``). ``cost``:
    resident bytes. ``seconds``: of one run, 0 if nobody has measured. ``level``: what its hits are counted as.
    ``judge``: of a full model that has caches between its layers."""

    name: str
    score: Score
    temperature: float
    coverage: Posterior
    cost: int = 0
    seconds: float = 0.0
    level: LocalName = "submodels"
    judge: Judge | None = None

    def guess(self, frame: Frame, context: Context) -> Guess:
        temperature = self.temperature / context.habits.trust
        word = Word(posterior(self.score(frame.view), temperature), key=frame.signature)
        return Guess(context.fuse(word), self.name, word)


class Submodels:
    """The resident submodels, within a budget; who goes first is the replacement policy's to say."""

    def __init__(self, budget: int, base_coverage: Posterior, policy: Policy = "lru") -> None:
        """``budget``: bytes all residents together may cost."""
        self.budget = budget
        #: Whether one has had to go for another: from then on every one that comes costs one.
        self.tight = False
        self._base_coverage = base_coverage
        self._replacement = Replacement(policy)
        self._resident: dict[str, LocalModel] = {}
        #: The present working set, as the replacement policy wants to know it.
        self.labels = np.full(len(base_coverage), 1.0 / len(base_coverage))
        #: What it has been on average, over a long time.
        self._usual = self.labels
        #: Who is here. Another tuple whenever somebody comes or goes.
        self.residents: tuple[LocalModel, ...] = ()

    def expect(self, labels: Posterior) -> None:
        """The working set is this, in the present frame."""
        self.labels = labels
        self._usual = self._usual + (labels - self._usual) / _USUAL

    def likely(self, others: Mapping[str, Posterior]) -> str | None:
        """Which of ``others``, whose coverage is given, would answer most of what is usually seen and nobody here
        does; None where it would be hardly anything."""
        best = np.max([self._base_coverage, *(model.coverage for model in self.residents)], axis=0)
        gains = {name: float(np.dot(self._usual, np.maximum(0.0, own - best))) for name, own in others.items()}
        name = max(gains, key=gains.__getitem__, default=None)
        return name if name is not None and gains[name] >= _WORTHWHILE else None

    def admit(self, model: LocalModel) -> list[str]:
        """Make ``model`` resident; return the names that had to go. A model that can never fit is among them."""
        if model.cost > self.budget:
            return [model.name]
        if model.name in self._resident:
            self._drop(model.name)
        gone = self.shrink(self.budget - model.cost)
        self._resident[model.name] = model
        self._replacement.add(model.name, model.cost, np.maximum(0.0, model.coverage - self._base_coverage))
        self.residents = tuple(self._resident.values())
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
        """Count a hit or a recommendation as a use. False if the model is not resident."""
        if name not in self._resident:
            return False
        self._replacement.use(name)
        return True

    def names(self) -> tuple[str, ...]:
        return tuple(self._resident)

    def _drop(self, name: str) -> None:
        del self._resident[name]
        self.residents = tuple(self._resident.values())
        self._replacement.drop(name)
