"""The confidence bound on a mean: valid, and above zero."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.models.certify.bounds import mean_upper, shares_needed
from cachenet.shared.cascade.rates import clopper_pearson_upper

Shares = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60)
Draw = Callable[[np.random.Generator, int], np.ndarray]


@given(st.integers(1, 2000))
def test_without_errors_the_bound_is_close_to_the_exact_one(count: int) -> None:
    bound, exact = mean_upper([0.0] * count, 0.95), clopper_pearson_upper(0, count, 0.95)
    assert exact <= bound + 1e-6, "no valid bound is lower"
    assert bound <= 1.1 * exact


@given(Shares)
def test_the_bound_is_between_the_mean_and_one(shares: list[float]) -> None:
    assert np.mean(shares) - 1e-6 <= mean_upper(shares, 0.95) <= 1.0


@given(Shares)
def test_more_errors_never_lower_the_bound(shares: list[float]) -> None:
    worse = [min(1.0, share + 0.1) for share in shares]
    assert mean_upper(worse, 0.95) >= mean_upper(shares, 0.95) - 1e-6


def test_without_shares_the_bound_is_one() -> None:
    assert mean_upper([], 0.95) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: (rng.random(n) < 0.1).astype(float),
        lambda rng, n: (rng.random(n) < 0.2) * rng.random(n),
        lambda rng, n: rng.beta(0.3, 2.7, n),
    ],
    ids=["all or nothing", "some in bad blocks", "skewed"],
)
@pytest.mark.parametrize("count", [20, 60])
def test_the_bound_is_above_the_true_mean_in_nineteen_of_twenty_draws(draw: Draw, count: int) -> None:
    rng = np.random.default_rng(0)
    violations = sum(mean_upper(draw(rng, count).tolist(), 0.95) < 0.1 for _ in range(300))
    assert violations <= 15 + 10  # 5 %, and random variation


@pytest.mark.parametrize("shares", [[0.0], [0.0] * 9 + [0.1], [0.0] * 49 + [0.3]])
def test_with_the_needed_number_of_shares_the_bound_is_reached(shares: list[float]) -> None:
    needed = shares_needed(shares, 0.02, 0.95)
    assert needed > len(shares)
    repeated = [shares[number % len(shares)] for number in range(len(shares) * (needed // len(shares) + 1))]
    assert mean_upper(repeated, 0.95) <= 0.02
    assert mean_upper(repeated[: needed // 2], 0.95) > 0.02


def test_with_a_mean_over_the_budget_no_number_of_shares_suffices() -> None:
    assert shares_needed([0.0, 0.1], 0.02, 0.95) == 0
