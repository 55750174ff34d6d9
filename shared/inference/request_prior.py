"""What to expect of a request before the picture is looked at: a prior over labels from those that its device has seen
lately, which travel in the request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cachenet.shared.cascade.probability import Probabilities

#: How much of what was learned a new label replaces; and what of the prior is always left to each explanation.
_RATE, _LEAST = 0.03, 0.05
#: Where it begins: the last label, one of the recent ones, any.
_FIRST: Probabilities = np.array((0.3, 0.4, 0.3))
#: That are remembered; beyond them the one that was learned from least lately is forgotten, and begins anew.
_DEVICES = 4096


class Expectation:
    """A mixture of three explanations for a label: it is the last one seen, or one of the recent ones, or any. How
    likely each is is learned from requests as they come, by expectation maximisation one label at a time; of each
    device for itself, or one that dwells would have it expected of the others."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._shares: dict[str, Probabilities] = {}

    def prior(self, recent: Sequence[int], device: str = "") -> Probabilities:
        """Over the label of the next picture, ``(classes,)``. ``recent``: labels, oldest first; it may be empty."""
        prior: Probabilities = self._shares.get(device, _FIRST) @ self._explanations(recent)
        return prior

    def learn(self, recent: Sequence[int], label: int, device: str = "") -> None:
        """After ``recent`` came ``label``."""
        if recent:
            shares = self._shares.pop(device, _FIRST)
            blame = shares * self._explanations(recent)[:, label]
            shares = np.maximum(shares + _RATE * (blame / blame.sum() - shares), _LEAST)
            self._shares[device] = shares / shares.sum()
            if len(self._shares) > _DEVICES:
                del self._shares[next(iter(self._shares))]

    def _explanations(self, recent: Sequence[int]) -> Probabilities:
        any_ = np.full(self._classes, 1.0 / self._classes)
        if not recent:
            return np.stack([any_] * 3)
        last = np.zeros(self._classes)
        last[recent[-1]] = 1.0
        seen = np.bincount(np.asarray(recent, np.int64), minlength=self._classes) / len(recent)
        return np.stack([last, seen, any_])
