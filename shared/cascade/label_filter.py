"""The label filter: a hidden Markov model of the label that the stream shows now.

From one frame to the next the label stays, or changes with a small probability to one drawn from the recent labels (L.
Rabiner, "A tutorial on hidden Markov models", Proceedings of the IEEE 77, 1989, section III: forward algorithm).
"""

from __future__ import annotations

import math

import numpy as np

from cachenet.shared.cascade.probability import Probabilities

#: Prior probability that the label changes from one frame to the next.
_CHANGE_RATE = 0.03
#: Weight of this prior, in frames.
_CHANGE_PRIOR_FRAMES = 8.0
#: Decay constant of the change rate's statistics, in answers of the full model.
_CHANGE_DECAY = 200.0
#: Decay constant of a label's weight among the recent labels, in answers of the full model.
_LABEL_DECAY = 40.0
#: Least share of the label distribution after a change that is uniform; larger after few answers.
_UNIFORM_MIX = 0.05
#: Probability that the full model's answer is the stream's label; the full model is wrong for a frame now and then.
_FULL_ACCURACY = 0.95
#: Least likelihood of a label, so that the base model excludes none.
_MIN_LIKELIHOOD = 1e-6


class LabelFilter:
    """Forward filter over the labels of a stream.

    Attributes:
        belief: Posterior probability of each label on the present frame ``(classes,)``.
        after_change: Probability of each label after a change ``(classes,)``.
    """

    def __init__(self, classes: int) -> None:
        self.belief: Probabilities = np.full(classes, 1.0 / classes)
        self.after_change: Probabilities = self.belief
        self._recent = np.zeros(classes)  # decayed count of the full model's answers by label
        self._changes, self._transitions = _CHANGE_RATE * _CHANGE_PRIOR_FRAMES, _CHANGE_PRIOR_FRAMES
        self._last: tuple[int, int] | None = None  # frame and label of the full model's last answer

    @property
    def change_rate(self) -> float:
        """Probability that the label changes from one frame to the next."""
        return min(0.5, self._changes / self._transitions)

    def predict(self) -> None:
        """Prediction step: one frame passes."""
        rate = self.change_rate
        self.belief = (1.0 - rate) * self.belief + rate * self.after_change

    def update(self, likelihood: Probabilities) -> None:
        """Measurement update by the base model's probabilities ``(classes,)`` of the present frame.

        The likelihood counts by its square root, because errors on neighbouring frames are correlated.
        """
        belief = self.belief * np.sqrt(np.maximum(likelihood, _MIN_LIKELIHOOD))
        self.belief = belief / belief.sum()

    def update_full(self, index: int, label: int) -> None:
        """Measurement update by the full model's answer to frame ``index``; a late answer counts as one now."""
        self._recent *= math.exp(-1.0 / _LABEL_DECAY)
        self._recent[label] += 1.0
        total = float(self._recent.sum())
        known = (1.0 - _UNIFORM_MIX) * total / (total + 1.0)
        self.after_change = known / total * self._recent + (1.0 - known) / len(self._recent)
        if self._last is not None and index > self._last[0]:
            decay = math.exp(-1.0 / _CHANGE_DECAY)
            self._changes = decay * self._changes + (label != self._last[1])
            self._transitions = decay * self._transitions + (index - self._last[0])
        self._last = index, label
        belief = self.belief * ((1.0 - _FULL_ACCURACY) / max(1, len(self.belief) - 1))
        belief[label] = self.belief[label] * _FULL_ACCURACY
        self.belief = belief / belief.sum()
