"""The working set: which labels a stream shows at present, as a prior over the label of an object that comes."""

from __future__ import annotations

import math

import numpy as np

from shared.gate import Posterior
from shared.habits import ContextParameters, Habits


class WorkingSet:
    """Decaying counts of the labels that were seen. ``prior``: what they say of the next object, ``(classes,)``."""

    def __init__(self, classes: int, parameters: ContextParameters, habits: Habits) -> None:
        self._p, self._habits = parameters, habits
        self._weights = np.zeros(classes)
        self._trust, self._stranger = 0.0, habits.stranger
        self.prior: Posterior = np.full(classes, 1.0 / classes)

    def learn(self, label: int, news: float) -> None:
        """Count ``label`` by as much as its picture was new: an object that stays in view for a second is one thing
        seen, not thirty, or the set would be whatever came last."""
        if news == 0.0:
            return
        self._weights *= math.exp(-news / self._p.memory)
        self._weights[label] += news
        total = float(np.add.reduce(self._weights))
        # A label seen once or twice is not yet a working set: trust grows with what was seen.
        self._trust = total / (total + 1.0)
        self._stranger = self._habits.stranger
        known = self._trust * (1.0 - self._stranger)
        self.prior = (known / total) * self._weights
        self.prior += (1.0 - known) / len(self._weights)

    def explain(self, likelihood: Posterior) -> tuple[float, float]:
        """The probabilities that an object which has come, and of which a model says this, is a stranger to the set,
        and that it is one or the other: the rest is that the set is not known yet."""
        ignorance, strange = 1.0 - self._trust, self._trust * self._stranger  # of which the prior was made
        anything = float(np.add.reduce(likelihood)) / len(likelihood)
        all_ = float(self.prior.dot(likelihood))
        if all_ <= 0.0:
            return 0.0, 0.0
        return strange * anything / all_, 1.0 - ignorance * anything / all_
