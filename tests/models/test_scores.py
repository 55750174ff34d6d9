"""Uncertainty scores, and risk against coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.models.report import scores
from cachenet.shared.cascade.probability import softmax

seeds = st.integers(0, 1000)


def random_logits(seed: int, count: int = 200, classes: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (count, classes)).astype(np.float32)


@given(seed=seeds, temperature=st.floats(0.3, 4))
def test_entropy_is_that_of_the_softmax(seed: int, temperature: float) -> None:
    logits = random_logits(seed, 5)
    probabilities = softmax(logits, temperature)
    expected = -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(1)
    np.testing.assert_allclose(scores.uncertainty_scores(logits, temperature)["entropy"], expected, atol=1e-6)


@given(seed=seeds)
def test_a_frame_with_all_probability_on_one_label_is_the_most_certain_by_every_score(seed: int) -> None:
    logits = random_logits(seed, 50)
    logits[7] = 0
    logits[7, 2] = 60
    for name, score in scores.uncertainty_scores(logits, 1.0).items():
        assert score.argmin() == 7, name
        assert np.isfinite(score).all()


@given(seed=seeds)
def test_the_area_depends_only_on_the_order_of_the_scores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, right = rng.normal(size=300), rng.random(300) < 0.8
    assert scores.area(score, right) == scores.area(np.exp(3 * score), right)


@given(seed=seeds)
def test_the_area_is_smallest_with_right_before_wrong_and_largest_in_reverse(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, right = rng.normal(size=100), rng.random(100) < 0.7
    best, worst = scores.area(-right.astype(float), right), scores.area(right.astype(float), right)
    assert best <= scores.area(score, right) <= worst


def test_the_curve_ends_at_full_coverage() -> None:
    right = np.array([True, False, True, True])
    coverage, risk = scores.curve(np.array([0.1, 0.9, 0.2, 0.3]), right)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == [0, 0, 0, 0.25]
    assert scores.coverage_at(0.01, np.array([0.1, 0.9, 0.2, 0.3]), right) == 0.75
    assert scores.coverage_at(0.01, np.array([0.9, 0.1, 0.2, 0.3]), right) == 0.0


def test_the_learned_score_uses_the_label() -> None:
    """The model is wrong exactly where its label is 0, at any confidence."""
    logits = random_logits(0, 2000)
    right = logits.argmax(1) != 0
    learned = scores.area(scores.learned(logits, 1.0, right), right)
    assert learned < 0.5 * min(scores.area(score, right) for score in scores.uncertainty_scores(logits, 1.0).values())


def test_the_learned_score_is_fitted_and_applied_on_different_frames() -> None:
    """On random outcomes, a score with many coefficients is no better than chance."""
    rng = np.random.default_rng(1)
    areas = []
    for seed in range(20):
        right = rng.random(60) < 0.5
        areas.append(scores.area(scores.learned(random_logits(seed, 60), 1.0, right), right))
    assert np.mean(areas) == pytest.approx(0.5, abs=0.06)
