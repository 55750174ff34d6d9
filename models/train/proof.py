"""Whether a submodel is better for a device than what is resident there, on the device's most recent frames.

Each side answers the frames whose risk is within its own threshold. Temperatures and thresholds come from frames before
the proof. An answer that is not the full model's counts against its side, so the sides compare at equal agreement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cachenet.models.certify.traces import Labels, Logits
from cachenet.shared.cascade.probability import Probabilities, fit_temperature, softmax
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT

#: Frames of a block of the test, because consecutive frames are alike.
BLOCK = 8
#: Minimum gain, as a share of the frames.
MIN_GAIN = 0.02
#: Maximum p-value of the test over blocks.
MAX_P = 0.05
#: Random draws of signs in the test.
_DRAWS = 20_000
#: Answered frames that one wrong answer outweighs. On real clips a device has to ask 3 to 20 frames more for each wrong
#: answer less.
_WRONG = 5.0


@dataclass(frozen=True)
class Side:
    """A model, calibrated: its temperature, and the largest risk at which it answers; -1 for never."""

    temperature: float
    threshold: float

    def answers(self, logits: Logits, labels: Labels) -> npt.NDArray[np.float64]:
        """1 for each frame that is answered as the full model does, ``-_WRONG`` if otherwise, 0 if not answered."""
        return _answers(softmax(logits, self.temperature), self.threshold, labels)


@dataclass(frozen=True)
class Comparison:
    """Frames that a new model need not ask about, less those of the resident models, as a share of all frames.

    Attributes:
        wins, losses: Blocks in which the new model is better, or worse.
        p: Probability of such a gain if the gain of each block might as well have the other sign (E. Pitman,
            "Significance tests which may be applied to samples from any populations", 1937).
    """

    gain: float
    wins: int
    losses: int
    p: float

    def proves(self, tests: int = 1) -> bool:
        """Whether the new model is better; ``tests``: number of models from which it is the best (Bonferroni)."""
        return self.gain >= MIN_GAIN and tests * self.p <= MAX_P


def calibrate(logits: Logits, full: Logits) -> Side:
    """Calibrate a model on frames before the proof.

    The temperature fits the full model's probabilities: labels would make a model too sure that has none wrong there.

    Args:
        logits, full: Of the model and of the full model ``(n, classes)``.
    """
    temperature = round(fit_temperature(logits, softmax(full)), 4)
    return Side(temperature, _threshold(softmax(logits, temperature), np.asarray(full.argmax(1), np.int64)))


def compare(new: npt.NDArray[np.float64], resident: npt.NDArray[np.float64]) -> Comparison:
    """Compare the answers of two sides ``(n,)``; see ``Side.answers``."""
    difference = new - resident
    blocks = np.add.reduceat(difference, np.arange(0, len(difference), BLOCK))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (_DRAWS, len(blocks)))
    p = (1 + int((signs @ blocks >= blocks.sum() - 1e-9).sum())) / (1 + _DRAWS)
    return Comparison(float(difference.mean()), int((blocks > 0).sum()), int((blocks < 0).sum()), p)


def most_certain(models: Sequence[tuple[Logits, Logits]], tune: Logits, labels: Labels) -> npt.NDArray[np.float64]:
    """Answers ``(n,)`` of models that are resident together: each frame has that of the most certain one.

    Args:
        models: Logits of each model on the frames before the proof and on those of the proof.
        tune: Logits of the full model before the proof.
        labels: Labels of the full model in the proof ``(n,)``.
    """
    sides = [calibrate(before, tune) for before, _ in models]
    before, after = (
        np.stack([softmax(pair[which], side.temperature) for pair, side in zip(models, sides, strict=True)])
        for which in (0, 1)
    )
    threshold = _threshold(_most_certain(before), np.asarray(tune.argmax(1), np.int64))
    return _answers(_most_certain(after), threshold, labels)


def _most_certain(stacked: npt.NDArray[np.float64]) -> Probabilities:
    """Of ``(models, n, classes)`` the probabilities of the most certain model on each frame."""
    chosen: Probabilities = stacked[stacked.max(2).argmax(0), np.arange(stacked.shape[1])]
    return chosen


def _threshold(probabilities: Probabilities, labels: Labels) -> float:
    """The largest risk up to which at most ``MAX_DISAGREEMENT`` of all frames are answered wrong; -1 for none."""
    risk = 1 - probabilities.max(1)
    order = np.argsort(risk, kind="stable")
    risk = risk[order]
    wrong = np.cumsum((probabilities.argmax(1) != labels)[order])
    wrong = wrong[np.searchsorted(risk, risk, side="right") - 1]  # frames of equal risk are answered together
    within = np.flatnonzero(wrong <= MAX_DISAGREEMENT * len(labels))
    return float(risk[within[-1]]) if len(within) else -1.0


def _answers(probabilities: Probabilities, threshold: float, labels: Labels) -> npt.NDArray[np.float64]:
    right = probabilities.argmax(1) == labels
    return np.where(1 - probabilities.max(1) > threshold, 0.0, np.where(right, 1.0, -_WRONG))
