from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.models.report import scores
from cachenet.shared.cascade.probability import softmax

seeds = st.integers(0, 1000)


def words(seed: int, count: int = 200, classes: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (count, classes)).astype(np.float32)


@given(seed=seeds, temperature=st.floats(0.3, 4))
def test_entropy_is_that_of_the_softmax(seed: int, temperature: float) -> None:
    logits = words(seed, 5)
    rows = softmax(logits, temperature)
    expected = -(rows * np.log(np.maximum(rows, 1e-300))).sum(1)
    np.testing.assert_allclose(scores.doubts(logits, temperature)["entropy"], expected, atol=1e-6)


@given(seed=seeds)
def test_a_frame_that_says_one_label_alone_is_the_surest_by_every_score(seed: int) -> None:
    logits = words(seed, 50)
    logits[7] = 0
    logits[7, 2] = 60
    for name, doubt in scores.doubts(logits, 1.0).items():
        assert doubt.argmin() == 7, name
        assert np.isfinite(doubt).all()


@given(seed=seeds)
def test_only_the_order_of_doubts_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    doubt, right = rng.normal(size=300), rng.random(300) < 0.8
    assert scores.area(doubt, right) == scores.area(np.exp(3 * doubt), right)


@given(seed=seeds)
def test_no_order_is_better_than_right_before_wrong_nor_worse_than_the_reverse(seed: int) -> None:
    rng = np.random.default_rng(seed)
    doubt, right = rng.normal(size=100), rng.random(100) < 0.7
    best, worst = scores.area(-right.astype(float), right), scores.area(right.astype(float), right)
    assert best <= scores.area(doubt, right) <= worst


def test_the_curve_ends_where_everything_is_answered() -> None:
    right = np.array([True, False, True, True])
    coverage, risk = scores.curve(np.array([0.1, 0.9, 0.2, 0.3]), right)
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == [0, 0, 0, 0.25]
    assert scores.coverage_at(0.01, np.array([0.1, 0.9, 0.2, 0.3]), right) == 0.75
    assert scores.coverage_at(0.01, np.array([0.9, 0.1, 0.2, 0.3]), right) == 0.0


def test_a_learned_score_finds_what_the_others_cannot_see() -> None:
    """A model that is wrong whenever it says label 0, however sure it is."""
    logits = words(0, 2000)
    right = logits.argmax(1) != 0
    learned = scores.area(scores.learned(logits, 1.0, right), right)
    assert learned < 0.5 * min(scores.area(doubt, right) for doubt in scores.doubts(logits, 1.0).values())


def test_a_learned_score_is_never_judged_by_what_it_was_fitted_on() -> None:
    """Where there is nothing to learn it does no better than chance, though it has many coefficients."""
    rng = np.random.default_rng(1)
    areas = []
    for seed in range(20):
        right = rng.random(60) < 0.5
        areas.append(scores.area(scores.learned(words(seed, 60), 1.0, right), right))
    assert np.mean(areas) == pytest.approx(0.5, abs=0.06)
