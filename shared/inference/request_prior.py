"""Prior over the label of a request, from the recent labels of its device, which travel in the request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cachenet.shared.cascade.probability import Probabilities

#: Step size of the mixture weights, with each label.
_RATE = 0.03
#: Least weight of a component, before normalisation.
_MIN_WEIGHT = 0.05
#: First weights of the components: the last label, one of the recent labels, any label.
_INITIAL: Probabilities = np.array((0.3, 0.4, 0.3))
#: Most devices with weights of their own; the one that was updated longest ago is forgotten.
_MAX_DEVICES = 4096


class RequestPrior:
    """A mixture of three components: the last label, one of the recent labels, any label.

    The weights are learned for each device by online expectation maximisation.

    Example:
        >>> prior = RequestPrior(classes=3)
        >>> for _ in range(100):
        ...     prior.learn(recent=(1,), label=1)
        >>> int(prior.prior((2,)).argmax())
        2
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._weights: dict[str, Probabilities] = {}

    def prior(self, recent: Sequence[int], device: str = "") -> Probabilities:
        """Probability of each label of the next picture ``(classes,)``; ``recent``: recent labels, oldest first."""
        prior: Probabilities = self._weights.get(device, _INITIAL) @ self._components(recent)
        return prior

    def learn(self, recent: Sequence[int], label: int, device: str = "") -> None:
        """Update the weights: the label after ``recent`` was ``label``."""
        if recent:
            weights = self._weights.pop(device, _INITIAL)
            joint = weights * self._components(recent)[:, label]
            weights = np.maximum(weights + _RATE * (joint / joint.sum() - weights), _MIN_WEIGHT)
            self._weights[device] = weights / weights.sum()
            if len(self._weights) > _MAX_DEVICES:
                del self._weights[next(iter(self._weights))]

    def _components(self, recent: Sequence[int]) -> Probabilities:
        """Distribution of each component ``(3, classes)``."""
        uniform = np.full(self._classes, 1.0 / self._classes)
        if not recent:
            return np.stack([uniform] * 3)
        last = np.zeros(self._classes)
        last[recent[-1]] = 1.0
        frequencies = np.bincount(np.asarray(recent, np.int64), minlength=self._classes) / len(recent)
        return np.stack([last, frequencies, uniform])
