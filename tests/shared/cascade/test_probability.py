"""Calibrated probabilities, their distance, and the fit of a temperature."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cachenet.shared.cascade.probability import (
    fit_temperature,
    jensen_shannon,
    softmax,
)

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
logits = hnp.arrays(np.float32, st.integers(1, 30), elements=finite)
Logits = npt.NDArray[np.float32]
triples = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*[hnp.arrays(np.float32, n, elements=st.floats(-30, 30, width=32))] * 3)
)


@given(logits, st.floats(0.01, 100))
def test_softmax_is_a_probability_for_any_logits(scores: Logits, temperature: float) -> None:
    before = scores.copy()
    probabilities = softmax(scores, temperature)
    assert np.array_equal(scores, before)
    assert probabilities.dtype == np.float64
    assert np.isfinite(probabilities).all()
    assert probabilities.min() >= 0
    assert probabilities.sum() == pytest.approx(1)
    # Scores that differ by less than the arithmetic can show may tie, but the first never loses.
    assert probabilities[scores.argmax()] == probabilities.max()


@given(hnp.arrays(np.float32, 6, elements=st.floats(-20, 20, width=32)))
def test_softmax_is_the_exponential_over_the_temperature(scores: Logits) -> None:
    plain = [math.exp(float(score) / 2) for score in scores]
    np.testing.assert_allclose(softmax(scores, 2.0), np.array(plain) / sum(plain), rtol=1e-9)


def test_softmax_works_row_by_row() -> None:
    rows = np.array([[1.0, 2.0], [5.0, -5.0]], np.float32)
    np.testing.assert_array_equal(softmax(rows, 1.5), np.stack([softmax(row, 1.5) for row in rows]))


def test_softmax_is_finite_for_huge_logits() -> None:
    np.testing.assert_allclose(softmax(np.array([3e38, 3e38, -3e38], np.float32)), [0.5, 0.5, 0.0])


@given(logits, st.floats(0.1, 5), st.floats(0.1, 5))
def test_a_higher_temperature_never_increases_the_confidence(scores: Logits, a: float, b: float) -> None:
    surer = softmax(scores, min(a, b)).max()
    assert surer >= softmax(scores, max(a, b)).max() - 1e-12


@given(triples)
def test_the_distance_of_outputs_is_a_metric_but_for_the_floor(scores: tuple[Logits, Logits, Logits]) -> None:
    a, b, c = (softmax(one) for one in scores)
    ab, bc, ac = (float(jensen_shannon(*two)) for two in ((a, b), (b, c), (a, c)))
    assert jensen_shannon(a, a) == pytest.approx(0, abs=1e-7)
    assert ab == pytest.approx(float(jensen_shannon(b, a)), abs=1e-9)
    assert 0 <= ab <= math.sqrt(math.log(2)) + 0.01
    assert ac <= ab + bc + 0.05


def test_disjoint_outputs_have_the_largest_distance() -> None:
    apart = jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert apart == pytest.approx(math.sqrt(math.log(2)), abs=0.01)


def test_distances_to_several_rows_are_those_to_each() -> None:
    one, rows = np.array([0.7, 0.2, 0.1]), np.array([[0.1, 0.2, 0.7], [0.7, 0.2, 0.1]])
    np.testing.assert_allclose(jensen_shannon(one, rows), [jensen_shannon(one, row) for row in rows])


@pytest.mark.parametrize("truth", [0.3, 1.0, 2.5, 6.0])
def test_the_temperature_of_a_miscalibrated_model_is_recovered(truth: float) -> None:
    """Labels are drawn from the softmax of some scores; a model that reports them ``truth`` times too large is put
    right by dividing by ``truth``."""
    random = np.random.default_rng(7)
    calibrated = random.normal(0, 2, (10_000, 10)).astype(np.float32)
    # The label with the largest score plus Gumbel noise is a draw from the softmax.
    labels = (calibrated + random.gumbel(size=calibrated.shape)).argmax(1)
    assert fit_temperature(calibrated * np.float32(truth), labels) == pytest.approx(truth, rel=0.04)


@pytest.mark.parametrize(("right", "expected"), [(True, 1 / 8), (False, 8)])
def test_the_temperature_stays_within_its_bounds(right: bool, expected: float) -> None:
    scores = np.tile(np.array([[1.0, 0.0, 0.0]], np.float32), (50, 1))
    labels = np.full(50, 0 if right else 1)
    assert fit_temperature(scores, labels) == pytest.approx(expected, rel=0.01)


def test_weights_select_the_rows_of_the_temperature() -> None:
    """Half of the scores are too sure and half are not: the weight decides which half it is fitted to."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 4000)
    drawn = np.where(rng.random(4000) < 0.7, labels, (labels + 1) % 3)
    margin = np.where(np.arange(4000) < 2000, 8.0, 1.5)[:, None]
    scores = (margin * np.eye(3)[drawn]).astype(np.float32)
    first = np.where(np.arange(4000) < 2000, 1.0, 0.0)
    both = fit_temperature(scores, labels)
    assert fit_temperature(scores, labels, first) > both > fit_temperature(scores, labels, 1 - first)
    assert fit_temperature(scores, labels, np.ones(4000)) == pytest.approx(both)


def test_probabilities_of_labels_are_recovered_as_well() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.dirichlet(np.full(5, 0.3), 500)
    scores = (2.5 * np.log(np.maximum(wanted, 1e-9))).astype(np.float32)
    assert fit_temperature(scores, wanted) == pytest.approx(2.5, rel=5e-3)
