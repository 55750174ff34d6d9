"""Pictures and words for the tests of the context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import strategies as st

from shared.context import Context
from shared.filter import Word
from shared.gate import Posterior
from shared.habits import ContextParameters
from shared.risk import Belief

CLASSES = 5
PARAMETERS = ContextParameters(still=0.0, cut=1.0)

changes = st.floats(0, 1) | st.sampled_from([0.0, 1.0])
novelties = st.none() | changes
labels = st.integers(0, CLASSES - 1)


@st.composite
def likelihoods(draw: st.DrawFn) -> Posterior:
    """From flat to one-hot, zeros and denormals included."""
    weights = np.array(draw(st.lists(st.floats(0, 1), min_size=CLASSES, max_size=CLASSES)))
    weights[draw(labels)] = 1.0
    likelihood: Posterior = weights / weights.sum()
    return likelihood


@dataclass(frozen=True)
class Place:
    """A picture that is a point on a line."""

    at: float

    def change(self, before: Place) -> float:
        return abs(self.at - before.at)


class Film:
    """A line of pictures, each as far from the one before as told: 0 the same, 1 another scene."""

    def __init__(self) -> None:
        self._at = 0.0

    def turn(self, change: float | None) -> Place | None:
        if change is None:
            return None
        self._at += 2.0 if change == 1.0 else change
        return Place(self._at)


def likelihood_of(label: int, confidence: float, classes: int = CLASSES) -> Posterior:
    """What a model says that is this sure of one label and knows nothing of the others."""
    likelihood = np.full(classes, (1 - confidence) / (classes - 1))
    likelihood[label] = confidence
    return likelihood


def proper(belief: Posterior, parameters: ContextParameters = PARAMETERS) -> bool:
    least = parameters.floor / len(belief) / (1 + parameters.floor)
    return bool(abs(belief.sum() - 1) < 1e-9 and belief.min() >= least * (1 - 1e-9))


def assert_same(a: Belief, b: Belief) -> None:
    np.testing.assert_allclose(a.posterior, b.posterior, atol=1e-12)
    assert a.risk == pytest.approx(b.risk, abs=1e-12)


def repeat(confidences: list[float]) -> Context:
    """A context that has heard the full model say the same of one object, this surely."""
    context, key = Context(CLASSES, PARAMETERS), Place(0.0)
    for index, confidence in enumerate(confidences):
        key = Place(0.001 * index)
        context.advance(index, key)
        context.observe(Word(likelihood_of(1, confidence), True, key))
    context.advance(len(confidences), key)
    return context
