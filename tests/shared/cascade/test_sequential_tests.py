"""Tests that may be looked at after every observation."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.sequential_tests import AnytimeUpperBound, EDetector

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
