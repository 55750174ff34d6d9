"""Tests that may be looked at after every observation."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.sequential_tests import AnytimeUpperBound, EDetector, TwoSampleTest

shares = st.lists(st.floats(0, 1), max_size=60)


@given(shares)
def test_the_bound_never_rises_and_stays_in_0_to_1(observations: list[float]) -> None:
    bound, before = AnytimeUpperBound(), 1.0
    assert bound.value == 1.0
    for share in observations:
        bound.add(share)
        assert 0 < bound.value <= before
        before = bound.value


def test_the_bound_holds_at_every_moment_in_19_of_20_streams() -> None:
    rng, truth, broken = np.random.default_rng(0), 0.1, 0
    for _ in range(120):
        bound = AnytimeUpperBound()
        for _ in range(250):
            bound.add(float(rng.random() < truth))
        broken += bound.value < truth  # it never rises, so the last is the least
    assert broken <= 10


def test_the_bound_approaches_the_mean() -> None:
    bound = AnytimeUpperBound()
    for _ in range(400):
        bound.add(0.0)
    assert bound.value < 0.02


@given(shares, st.floats(0.01, 0.9))
def test_the_e_value_is_positive_and_falls_with_zeros(observations: list[float], allowed: float) -> None:
    detector = EDetector(allowed)
    for share in observations:
        detector.add(share)
        assert np.isfinite(detector.e_value) and detector.e_value > 0
    before = detector.e_value
    detector.add(0.0)
    assert detector.e_value <= max(1.0, before)
    detector.reset()
    assert detector.e_value == 1.0


def test_the_e_value_grows_over_the_allowed_mean_after_a_long_calm() -> None:
    detector = EDetector(0.04)
    for _ in range(5000):
        detector.add(0.0)
    for index in range(100):
        detector.add(float(index % 4 == 0))
    assert detector.e_value > 100


def test_the_e_value_seldom_exceeds_100_at_the_allowed_mean() -> None:
    """An e-detector promises a mean time to a false alarm of 100 shares at least; at 100 it is far longer."""
    rng, deceived = np.random.default_rng(1), 0
    for _ in range(100):
        detector = EDetector(0.04)
        for _ in range(100):
            detector.add(float(rng.random() < 0.04))
            if detector.e_value >= 100:
                deceived += 1
                break
    assert deceived <= 20


def largest(first: float, other: float, streams: int, blocks: int = 60) -> np.ndarray:
    """Largest e-value of each stream of blocks of 10 and 40 observations with these means."""
    rng, found = np.random.default_rng(0), []
    for _ in range(streams):
        test, top = TwoSampleTest(), 1.0
        for _ in range(blocks):
            test.add(10, float(rng.binomial(10, first)), 40, float(rng.binomial(40, other)))
            top = max(top, test.e_value)
        found.append(top)
    return np.array(found)


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1), st.integers(0, 20), st.floats(0, 1)), max_size=20))
def test_the_e_value_of_two_samples_is_finite_and_positive(
    blocks: list[tuple[int, float, int, float]],
) -> None:
    test = TwoSampleTest()
    for count, share, other_count, other_share in blocks:
        test.add(count, share * count, other_count, other_share * other_count)
        assert 0 <= test.e_value < np.inf


def test_equal_and_better_samples_rarely_have_a_large_e_value() -> None:
    """At most one in 20 exceeds 20 at any time, and where the first is better, fewer still."""
    assert (largest(0.03, 0.03, 120) >= 20).mean() <= 0.05
    assert (largest(0.3, 0.3, 120) >= 20).mean() <= 0.05
    assert (largest(0.01, 0.05, 60) >= 20).mean() <= 0.05


def test_a_worse_sample_has_a_large_e_value() -> None:
    assert (largest(0.25, 0.02, 100, blocks=20) >= 100).mean() >= 0.95


def test_one_sample_alone_proves_nothing() -> None:
    test = TwoSampleTest()
    test.add(100, 100.0, 0, 0.0)
    assert test.e_value == 1.0
