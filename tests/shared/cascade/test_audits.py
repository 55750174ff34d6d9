"""Audits: how many hits are judged, what they say of all answers, and when they raise an alarm."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.audits import Audits

BUDGET = 0.02


def audits(seed: int = 0, floor: float = 0.02) -> Audits:
    return Audits(BUDGET, floor, random.Random(seed).random)


def play(some: Audits, frames: int, wrong: float, rng: np.random.Generator, hits: float = 1.0) -> int:
    """Play frames with a share of hits, of which a share is wrong; return the number of wrong answers."""
    wrongs = 0
    for _ in range(frames):
        due = some.due()
        hit, is_wrong = bool(rng.random() < hits), bool(rng.random() < wrong)
        some.count(hit)
        wrongs += hit and is_wrong
        if due and hit:
            some.sent += 1
            some.judge(is_wrong, some.rate)
    return wrongs


def test_hits_are_drawn_at_the_floor() -> None:
    some = audits()
    assert sum(some.due() for _ in range(50_000)) == pytest.approx(1000, rel=0.1)


def test_the_same_seed_draws_the_same_frames() -> None:
    first, second, other = audits(1), audits(1), audits(2)
    drawn = [[some.due() for _ in range(2000)] for some in (first, second, other)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_after_a_scene_change_the_audit_rate_is_raised_for_a_while() -> None:
    some = audits()
    some.raise_rate()
    early = sum(some.due() for _ in range(100))
    late = sum(some.due() for _ in range(1000))
    assert early >= 10
    assert late <= 40
    assert some.rate == 0.02


def test_a_floor_over_the_alarm_rate_stays() -> None:
    some = audits(floor=0.5)
    some.raise_rate()
    assert some.rate == 0.5


def test_the_interval_covers_the_truth_in_most_runs() -> None:
    """Also where more was audited for a while, and where some answers are the full model's own."""
    covered = []
    for seed in range(120):
        some, rng = audits(seed, floor=0.1), np.random.default_rng(seed)
        some.raise_rate()
        play(some, 1500, 0.03, rng, hits=0.7)
        agreement = some.agreement()
        assert agreement is not None
        estimate, low, high = agreement
        assert 0 <= low <= estimate <= high <= 1
        covered.append(low <= 1.0 - 0.7 * 0.03 <= high)
    assert sum(covered) >= 0.92 * len(covered)


def test_the_estimate_is_right_in_the_mean() -> None:
    estimates = []
    for seed in range(60):
        some = audits(seed, floor=0.1)
        play(some, 1000, 0.1, np.random.default_rng(seed), hits=0.5)
        agreement = some.agreement()
        assert agreement is not None
        estimates.append(agreement[0])
    assert np.mean(estimates) == pytest.approx(0.95, abs=0.005)


def test_audits_at_a_raised_rate_have_less_weight() -> None:
    """Each counts by the inverse of its probability."""
    some = audits()
    for _ in range(25):
        some.judge(True, 0.25)
    for _ in range(20):
        some.judge(False, 0.02)
    for _ in range(1100):
        some.count(True)
    agreement = some.agreement()
    assert agreement is not None
    assert agreement[0] == pytest.approx(1 - 100 / 1100)


def test_there_is_no_estimate_before_the_first_audit() -> None:
    some = audits()
    assert some.agreement() is None
    some.count(True)
    assert some.agreement() is None


def test_without_errors_the_lower_bound_is_still_under_one() -> None:
    some = audits()
    for _ in range(20):
        some.count(True)
        some.judge(False, 0.02)
    agreement = some.agreement()
    assert agreement is not None
    estimate, low, high = agreement
    assert (estimate, high) == (1.0, 1.0)
    assert low == pytest.approx(0.025 ** (1 / 20), abs=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_hits_that_disagree_more_than_twice_the_budget_raise_an_alarm(seed: int) -> None:
    some, rng = audits(), np.random.default_rng(seed)
    assert any(some.judge(bool(rng.random() < 8 * BUDGET), 0.02) for _ in range(400))
    assert some.alarms == 1
    assert some.scale == 0.5
    assert some.rate == 0.25


def test_hits_that_disagree_half_the_budget_raise_none() -> None:
    alarms = 0
    for seed in range(20):
        some, rng = audits(), np.random.default_rng(seed)
        alarms += any(some.judge(bool(rng.random() < BUDGET / 2), 0.02) for _ in range(600))
    assert alarms <= 1


def test_alarms_reduce_the_budget_to_a_limit_and_it_recovers() -> None:
    some = audits()
    for _ in range(60):
        some.judge(True, 0.25)
    assert some.scale == 0.125
    scales = []
    for _ in range(1000):
        some.judge(False, 0.02)
        scales.append(some.scale)
    assert scales[-1] == 1.0
    assert scales[150] < 1.0
    assert scales == sorted(scales)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.02, 0.25, 1.0])), min_size=1, max_size=60), st.integers(0, 60)
)
def test_the_interval_is_valid_for_any_audits(judged: list[tuple[bool, float]], others: int) -> None:
    some = audits()
    for wrong, rate in judged:
        some.count(True)
        some.judge(wrong, rate)
    for _ in range(others):
        some.count(False)
    agreement = some.agreement()
    assert agreement is not None
    estimate, low, high = agreement
    assert -1e-9 <= low <= estimate + 1e-9 and estimate - 1e-9 <= high <= 1
    assert some.judged == len(judged) and some.wrong == sum(wrong for wrong, _ in judged)
    assert 0.125 <= some.scale <= 1.0
