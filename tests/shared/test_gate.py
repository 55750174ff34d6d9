"""Calibrated posterior, risk, entropy and the fit of a temperature."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared import gate

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
logits = hnp.arrays(np.float32, st.integers(1, 30), elements=finite)
Logits = npt.NDArray[np.float32]


@given(logits, st.floats(0.01, 100))
def test_the_posterior_is_a_probability_whatever_the_logits(scores: Logits, temperature: float) -> None:
    before = scores.copy()
    posterior = gate.posterior(scores, temperature)
    assert np.array_equal(scores, before)
    assert posterior.dtype == np.float64
    assert np.isfinite(posterior).all()
    assert posterior.min() >= 0
    assert posterior.sum() == pytest.approx(1)
    # Scores that differ by less than the arithmetic can show may tie, but the first never loses.
    assert posterior[scores.argmax()] == posterior.max()


@given(hnp.arrays(np.float32, 6, elements=st.floats(-20, 20, width=32)))
def test_the_posterior_is_softmax(scores: Logits) -> None:
    plain = [math.exp(float(score) / 2) for score in scores]
    np.testing.assert_allclose(gate.posterior(scores, 2.0), np.array(plain) / sum(plain), rtol=1e-9)


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(allow_nan=False)))
def test_the_largest_is_the_largest(values: npt.NDArray[np.float64]) -> None:
    assert gate.largest(values) == max(values.tolist())


def test_the_posterior_is_not_upset_by_huge_logits() -> None:
    np.testing.assert_allclose(gate.posterior(np.array([3e38, 3e38, -3e38], np.float32), 1.0), [0.5, 0.5, 0.0])


@given(logits, st.floats(0.1, 5), st.floats(0.1, 5))
def test_a_higher_temperature_is_never_surer(scores: Logits, a: float, b: float) -> None:
    surer = gate.posterior(scores, min(a, b)).max()
    assert surer >= gate.posterior(scores, max(a, b)).max() - 1e-12


@given(logits)
def test_entropy_keeps_its_bounds(scores: Logits) -> None:
    belief = gate.posterior(scores, 1.0)
    assert -1e-9 <= gate.entropy(belief) <= math.log(len(belief)) + 1e-9


def test_entropy_at_its_ends() -> None:
    assert gate.entropy(np.array([1.0, 0.0, 0.0])) == pytest.approx(0, abs=1e-9)
    assert gate.entropy(np.full(8, 1 / 8)) == pytest.approx(math.log(8))
    assert gate.entropy(np.array([1.0])) == 0


@pytest.mark.parametrize("truth", [0.3, 1.0, 2.5, 6.0])
def test_the_temperature_of_a_miscalibrated_model_is_recovered(truth: float) -> None:
    """Labels are drawn from the softmax of some scores; a model that reports them ``truth`` times too large is put
    right by dividing by ``truth``."""
    random = np.random.default_rng(7)
    calibrated = random.normal(0, 2, (20_000, 10)).astype(np.float32)
    # The label with the largest score plus Gumbel noise is a draw from the softmax.
    labels = (calibrated + random.gumbel(size=calibrated.shape)).argmax(1)
    assert gate.temperature(calibrated * np.float32(truth), labels) == pytest.approx(truth, rel=0.03)


@pytest.mark.parametrize(("right", "expected"), [(True, 1 / 8), (False, 8)])
def test_the_temperature_stays_within_its_bounds(right: bool, expected: float) -> None:
    scores = np.tile(np.array([[1.0, 0.0, 0.0]], np.float32), (50, 1))
    labels = np.full(50, 0 if right else 1)
    assert gate.temperature(scores, labels) == pytest.approx(expected, rel=0.01)


def test_weights_say_whose_temperature_it_is() -> None:
    """Half of the scores are too sure and half are not: the weight decides which half it is fitted to."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 4000)
    said = np.where(rng.random(4000) < 0.7, labels, (labels + 1) % 3)
    margin = np.where(np.arange(4000) < 2000, 8.0, 1.5)[:, None]
    scores = (margin * np.eye(3)[said]).astype(np.float32)
    first = np.where(np.arange(4000) < 2000, 1.0, 0.0)
    both = gate.temperature(scores, labels)
    assert gate.temperature(scores, labels, first) > both > gate.temperature(scores, labels, 1 - first)
    assert gate.temperature(scores, labels, np.ones(4000)) == pytest.approx(both)


def test_a_temperature_is_found_that_makes_scores_as_sure_as_they_should_be() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.dirichlet(np.full(5, 0.3), 500)
    scores = (2.5 * np.log(np.maximum(wanted, 1e-9))).astype(np.float32)
    assert gate.temperature(scores, wanted) == pytest.approx(2.5, rel=5e-3)
