"""What to expect of a request before the picture is looked at: a prior over labels from those that its device has seen
lately, which travel in the request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.gate import Posterior

#: How much of what was learned a new label replaces; and what of the prior is always left to each explanation.
_RATE, _LEAST = 0.03, 0.05
#: Where it begins: the last label, one of the recent ones, any.
_FIRST = (0.3, 0.4, 0.3)


class Expectation:
    """A mixture of three explanations for a label: it is the last one seen, or one of the recent ones, or any. How
    likely each is is learned from requests as they come, by expectation maximisation one label at a time."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._shares: Posterior = np.array(_FIRST)

    def prior(self, recent: Sequence[int]) -> Posterior:
        """Over the label of the next picture, ``(classes,)``. ``recent``: labels, oldest first; it may be empty."""
        prior: Posterior = self._shares @ self._explanations(recent)
        return prior

    def learn(self, recent: Sequence[int], label: int) -> None:
        """After ``recent`` came ``label``."""
        if recent:
            blame = self._shares * self._explanations(recent)[:, label]
            self._shares += _RATE * (blame / blame.sum() - self._shares)
            self._shares = np.maximum(self._shares, _LEAST)
            self._shares /= self._shares.sum()

    def _explanations(self, recent: Sequence[int]) -> Posterior:
        any_ = np.full(self._classes, 1.0 / self._classes)
        if not recent:
            return np.stack([any_] * 3)
        last = np.zeros(self._classes)
        last[recent[-1]] = 1.0
        seen = np.bincount(np.asarray(recent, np.int64), minlength=self._classes) / len(recent)
        return np.stack([last, seen, any_])
