"""Bounds on rates and means hold as often as they say, and are exact where the numbers are whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cachenet.models.certify.bounds import mean_upper, shares_needed
from cachenet.shared.cascade.rates import clopper_pearson, clopper_pearson_upper


def binomial_tail(errors: int, trials: int, rate: float) -> float:
    return sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(errors + 1))


@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_upper_bound_is_the_rate_at_which_so_few_errors_become_unlikely(
    errors: int, trials: int, confidence: float
) -> None:
    assume(errors < trials)
    bound = clopper_pearson_upper(errors, trials, confidence)
    assert errors / trials <= bound <= 1
    assert binomial_tail(errors, trials, bound) == pytest.approx(1 - confidence, abs=1e-4)


def test_the_bound_of_no_errors_in_twenty_is_exact() -> None:
    assert clopper_pearson_upper(0, 20, 0.95) == pytest.approx(1 - 0.05 ** (1 / 20), abs=1e-5)


def test_the_bound_of_all_errors_is_one() -> None:
    assert clopper_pearson_upper(5, 5, 0.95) == pytest.approx(1)
    low, high = clopper_pearson(5, 5, 0.95)
    assert low == pytest.approx(0.025 ** (1 / 5), abs=1e-4)
    assert high == pytest.approx(1)


@given(st.integers(0, 40), st.integers(1, 40))
def test_the_interval_of_successes_mirrors_that_of_errors(errors: int, trials: int) -> None:
    assume(errors <= trials)
    low, high = clopper_pearson(errors, trials, 0.95)
    mirrored = clopper_pearson(trials - errors, trials, 0.95)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-4)
    assert low <= errors / trials <= high


@given(st.floats(0, 50), st.floats(0.5, 100))
def test_fractional_counts_have_an_interval(errors: float, trials: float) -> None:
    assume(errors <= trials)
    low, high = clopper_pearson(errors, trials, 0.95)
    assert 0 <= low <= high <= 1


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_the_interval_covers_the_true_rate_at_its_confidence(rate: float) -> None:
    rng = np.random.default_rng(3)
    intervals = [clopper_pearson(int(rng.binomial(80, rate)), 80, 0.95) for _ in range(300)]
    assert sum(low <= rate <= high for low, high in intervals) >= 0.93 * 300


@given(st.lists(st.floats(0, 1), max_size=40))
def test_the_bound_on_a_mean_is_over_the_mean_and_shrinks_with_more_of_the_same(shares: list[float]) -> None:
    bound = mean_upper(shares, 0.95)
    assert (np.mean(shares) if shares else 1.0 - 1e-5) <= bound <= 1
    assert mean_upper(shares * 4, 0.95) <= bound + 1e-5


def test_the_bound_on_a_mean_holds_at_its_confidence() -> None:
    rng = np.random.default_rng(4)
    shares = rng.beta(0.5, 12.0, (300, 40))
    truth = 0.5 / 12.5
    assert sum(mean_upper(list(row), 0.95) < truth for row in shares) <= 0.06 * 300


@pytest.mark.parametrize("share", [0.0, 0.01])
def test_the_stated_number_of_shares_is_enough(share: float) -> None:
    number = shares_needed([share], 0.05, 0.95)
    assert mean_upper([share] * number, 0.95) <= 0.05 + 1e-5
    assert mean_upper([share] * (number // 2), 0.95) > 0.05


def test_no_number_of_shares_certifies_a_mean_over_the_limit() -> None:
    assert shares_needed([0.2, 0.2], 0.1, 0.95) == 0
