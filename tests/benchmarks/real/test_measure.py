"""Measures of a run, bootstrapped intervals, and the comparison over tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.real.measure import BLOCK, Measured, interval, measures
from benchmarks.real.pooled import dominated, pooled
from benchmarks.real.trivial import SETTINGS, Run, Tried
from tests.benchmarks.real.drawn import recording


def test_the_measures_of_a_run_count_all_answers() -> None:
    made = recording(full=[0, 0, 1, 1])
    run = Run(
        labels=np.array([0, 1, 0, 1]),
        asked=np.array([True, True, True, False]),  # the third is an audit: its local answer stays
        misses=np.array([True, True, False, False]),
        level=["cloud", "cloud", "frames", "base"],
        local_ms=np.array([1.0, 2.0, 3.0, 4.0]),
    )
    assert measures(run, made, np.array([0, 1, 1, 1]), seed=0) == {
        "asked": 0.75,
        "disagreement": 0.5,
        "agreement": 0.5,
        "interval": None,
        "truth": 0.75,
        "overruled": 1,
        "levels": {"cloud": 0.5, "frames": 0.25, "base": 0.25},
        "ms": 2.5,
    }
    assert measures(run, made, None, seed=0)["truth"] is None


@given(st.lists(st.booleans(), min_size=2 * BLOCK, max_size=300), st.integers(0, 3))
def test_the_interval_contains_the_mean(agrees: list[bool], seed: int) -> None:
    values = np.array(agrees, float)
    found = interval(values, seed)
    assert found is not None
    assert found[0] - 1e-4 <= values.mean() <= found[1] + 1e-4
    assert found == interval(values, seed)


def test_the_interval_of_runs_is_wider_than_that_of_as_many_scattered_errors() -> None:
    runs, scattered = np.ones(400), np.ones(400)
    runs[:40], scattered[::10] = 0, 0
    wide, narrow = interval(runs, 0), interval(scattered, 0)
    assert wide is not None
    assert narrow is not None
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])


def test_one_block_has_no_interval() -> None:
    assert interval(np.ones(BLOCK), 0) is None


def agreeing(share: float, n: int = 400) -> Any:
    """Agreement of answers with this share, spread evenly ``(n,)``."""
    return np.floor(np.arange(1, n + 1) * share) > np.floor(np.arange(n) * share)


def attempts(points: list[tuple[float, float]]) -> Tried:
    asked, agrees = np.array([share for share, _ in points]), np.stack([agreeing(share) for _, share in points])
    runs = [Run(agrees[0].astype(int), agrees[0], agrees[0], [], np.zeros(400))] * len(points)
    return Tried([{"n": n} for n in range(len(points))], runs, asked, 1 - agrees.mean(1), agrees)


def measured(name: str, asked: float, agreement: float, points: list[tuple[float, float]]) -> Measured:
    """A task on which CacheNet reaches one point and ``hold`` reaches ``points``, the first with the tuned threshold;
    other policies always ask."""
    tried = dict.fromkeys(SETTINGS, attempts([(1.0, 1.0)])) | {"hold": attempts(points)}
    rows = {one: {"asked": 1.0, "agreement": 1.0} for one in SETTINGS}
    rows["hold"] = {"asked": points[0][0], "agreement": points[0][1]}
    rows["cachenet"] = {"asked": asked, "agreement": agreement}
    return Measured(name, {}, rows, {"cachenet": agreeing(agreement)}, tried)


def test_cachenet_is_compared_with_the_best_setting_that_asks_no_more() -> None:
    task = measured("a", 0.2, 0.9, [(0.1, 0.7), (0.2, 0.8), (0.3, 0.95)])
    found = pooled([task], seed=0)
    assert found["tasks"]["a"] == {
        "asked": 0.2,
        "agreement": 0.9,
        "trivial": "hold",
        "setting": {"n": 1},
        "trivial_asked": 0.2,
        "trivial_agreement": 0.8,
        "difference": 0.1,
        "asked_for_equal": 0.3,
    }
    assert found["difference"] == pytest.approx(0.1)


def test_where_every_setting_asks_more_the_comparison_uses_the_one_that_asks_least() -> None:
    found = pooled([measured("a", 0.01, 0.9, [(0.3, 0.99), (0.1, 0.7)])], seed=0)
    assert found["tasks"]["a"]["trivial_asked"] == 0.1


def test_tasks_have_equal_weights_and_their_spread_widens_the_interval() -> None:
    better, worse = measured("a", 0.2, 0.95, [(0.2, 0.75)]), measured("b", 0.2, 0.75, [(0.2, 0.95)])
    found = pooled([better, worse], seed=0)
    assert found["difference"] == pytest.approx(0.0)
    within, over = found["interval"], found["interval_over_tasks"]
    assert over[0] < within[0] <= 0.0 <= within[1] < over[1]
    assert over == pytest.approx([-0.2, 0.2])


@pytest.mark.parametrize(
    ("asked", "agreement", "dominates"),
    [
        (0.17, 0.95, True),
        (0.18, 0.95, False),  # asks more than CacheNet beyond the audit floor
        (0.17, 0.90, False),  # agrees no more
        (0.05, 0.89, False),
    ],
)
def test_a_policy_that_asks_no_more_beyond_the_floor_and_agrees_more_dominates(
    asked: float, agreement: float, dominates: bool
) -> None:
    task = measured("a", 0.20, 0.90, [(asked, agreement)])
    assert dominated(task, floor=0.03) == ["hold"] * dominates


def test_at_the_audit_floor_only_a_policy_that_asks_nothing_dominates() -> None:
    assert dominated(measured("a", 0.03, 0.9, [(0.0, 0.95)]), floor=0.03) == ["hold"]
    assert dominated(measured("a", 0.02, 0.9, [(0.0, 0.95)]), floor=0.03) == ["hold"]
    assert dominated(measured("a", 0.03, 0.9, [(0.01, 0.95)]), floor=0.03) == []
