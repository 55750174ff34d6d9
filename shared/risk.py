"""Risk: the probability that the reference would say another label than the one that is to be answered with.

That is what a false hit is. Where the full model has spoken about this very object it says the same again unless its
margin has wandered below zero. Elsewhere the belief is all there is to go by.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np

from shared.filter import Stay, another
from shared.gate import Posterior, largest
from shared.habits import Habits

#: With every frame since the full model spoke its looks count less by this: the sooner it is asked again the less sure
#: it was.
_STALE = 0.02
#: One over the looks that the reference has at an object, on average over the frames of a window of 16. They would be
#: some ten if each erred for itself; as neighbouring frames err alike they are worth two and a half.
_REFERENCE = 0.4


class Belief(msgspec.Struct, frozen=True, eq=False):
    """What is believed about the present frame, ``(classes,)``, and the ``risk`` of answering with ``label``: the
    probability that the reference would say another, and more where a mistake would last."""

    posterior: Posterior
    label: int
    risk: float

    @property
    def doubt(self) -> float:
        """The probability that the label is wrong."""
        return 1.0 - float(self.posterior[self.label])


def turns(stay: Stay, label: int, wander: float) -> float:
    """Probability that the reference does not rank ``label`` first, after what the full model has said about the
    object. Both are means of looks, and ``wander`` is how far, nats, two single looks are apart."""
    looks = max(1.0, stay.looks * (1.0 - _STALE) ** stay.full.age)
    apart = wander * math.sqrt((1.0 / looks + _REFERENCE) / 2.0)
    return below_zero(margin(stay.mean, label) / max(apart, 1e-6))


def differs(stay: Stay, label: int, believed: float, prior: Posterior, habits: Habits) -> float:
    """The risk of answering with ``label``, which is ``believed`` that much. ``prior``: over the label of an object
    that has just come.

    A mistake about an object is repeated for as long as it stays, so where the full model has not spoken of it one
    question saves that much. Where it has, another may not; but see ``lasting``.
    """
    doubt, new = 1.0 - believed, 1.0 - stay.full.holds
    if 0.0 < new < 1.0 and (word := stay.any.word) is not None and not word.full:
        # What a local model says tells as well whether this is another object, and which.
        other = prior * word.likelihood
        of_other = float(np.add.reduce(other))
        doubt = 1.0 - float(other[label]) / of_other if of_other > 0.0 else 1.0
        new = another(new, word, stay.said, prior)
    alone = min(1.0, habits.stay * habits.errs(doubt)) if new > 0.0 else 0.0
    if new == 1.0:
        return alone
    return (1.0 - new) * lasting(turns(stay, label, habits.wander), habits) + new * alone


def lasting(risk: float, habits: Habits) -> float:
    """What a ``risk`` counts that a mistake would not be of one frame but of as many as an object stays.

    It is no likelier for that, but a stream is within its budget as long as the mean of its false hits is and some
    standard deviations are; and that deviation grows by the root of how many frames are wrong together.
    """
    return min(1.0, math.sqrt(habits.stay) * risk)


def margin(said: Posterior, label: int) -> float:
    """By how many nats ``label`` is ahead of all others in log-likelihoods ``(classes,)``; negative where it is not."""
    others = said.copy()
    others[label] = -np.inf
    return float(said[label]) - largest(others)


def below_zero(standardised: float) -> float:
    """Probability that a normal variable of mean ``standardised`` and variance 1 is below zero."""
    return 0.5 * math.erfc(standardised / math.sqrt(2.0))
