"""The label filter: which label the stream shows now, as a hidden Markov model with a sticky state.

Between two frames the label stays, or with a small probability another one comes, drawn from the labels seen lately
(L. Rabiner, "A tutorial on hidden Markov models", Proceedings of the IEEE 77, 1989, section III: forward algorithm).
"""

from __future__ import annotations

import math

import numpy as np

from cachenet.shared.cascade.probability import Probabilities

#: Probability that the label changes between two frames, before the stream has shown how often it does.
_CHANGE_RATE = 0.03
#: Observations that this counts for; answers of the full model after which one counts 1/e.
_CHANGE_WORTH, _CHANGE_MEMORY = 8.0, 200.0
#: Answers of the full model after which a label's weight among those seen lately is 1/e.
_LABEL_MEMORY = 40.0
#: Share of the next label's probability that is spread over all labels.
_NEW_LABEL = 0.05
#: Likelihood of the full model's answer, if it is the stream's label: the full model errs for a frame now and then.
_FULL_CERTAINTY = 0.95
#: Least likelihood of a label, so that no model rules one out. Likelihoods of local models count by their roots, for
#: neighbouring frames err alike.
_LEAST = 1e-6


class LabelFilter:
    """``belief``: the probability of each label ``(classes,)`` on the present frame."""

    def __init__(self, classes: int) -> None:
        self.belief: Probabilities = np.full(classes, 1.0 / classes)
        #: Probability of each label of something new ``(classes,)``.
        self.prior: Probabilities = self.belief
        self._recent = np.zeros(classes)
        self._changes, self._chances = _CHANGE_RATE * _CHANGE_WORTH, _CHANGE_WORTH
        self._last: tuple[int, int] | None = None

    @property
    def change_rate(self) -> float:
        """Probability that the label changes between two frames."""
        return min(0.5, self._changes / self._chances)

    def predict(self) -> None:
        """A frame has come."""
        rate = self.change_rate
        self.belief = (1.0 - rate) * self.belief + rate * self.prior

    def update(self, likelihood: Probabilities) -> None:
        """A local model gives these probabilities to the labels of the present frame ``(classes,)``."""
        belief = self.belief * np.sqrt(np.maximum(likelihood, _LEAST))
        self.belief = belief / belief.sum()

    def answer(self, index: int, label: int) -> None:
        """The full model has said ``label`` of the frame ``index``, the present one."""
        self._recent *= math.exp(-1.0 / _LABEL_MEMORY)
        self._recent[label] += 1.0
        total = float(self._recent.sum())
        known = (1.0 - _NEW_LABEL) * total / (total + 1.0)
        self.prior = known / total * self._recent + (1.0 - known) / len(self._recent)
        if self._last is not None and index > self._last[0]:
            kept = math.exp(-1.0 / _CHANGE_MEMORY)
            self._changes = kept * self._changes + (label != self._last[1])
            self._chances = kept * self._chances + (index - self._last[0])
        self._last = index, label
        belief = self.belief * ((1.0 - _FULL_CERTAINTY) / max(1, len(self.belief) - 1))
        belief[label] = self.belief[label] * _FULL_CERTAINTY
        self.belief = belief / belief.sum()
