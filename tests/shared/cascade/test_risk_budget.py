"""The risk budget keeps the long-run mean of what answers are expected to cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.shared.cascade.risk_budget import RiskBudget

budgets = st.sampled_from([0.001, 0.01, 0.02, 0.1, 0.3])


@settings(max_examples=60)
@given(budgets, st.lists(st.tuples(st.integers(1, 300), st.floats(0, 1)), min_size=1, max_size=12))
def test_the_mean_charge_stays_within_the_budget(max_disagreement: float, stretches: list[tuple[int, float]]) -> None:
    """Whatever comes: each frame costs some share of what the threshold allows, in stretches of hard and easy times.

    The sum may lead by what the threshold can fall from first to last, 500 frames' budget at most.
    """
    budget, charged = RiskBudget(max_disagreement), []
    for frames, share in stretches:
        for _ in range(frames):
            charged.append(share * budget.threshold)
            budget.charge(charged[-1])
    assert sum(charged) <= max_disagreement * (len(charged) + 500)


@pytest.mark.parametrize("max_disagreement", [0.005, 0.02, 0.05])
def test_a_stream_with_all_risks_spends_the_budget(max_disagreement: float) -> None:
    """It is neither overspent nor left unused."""
    budget, rng, charged = RiskBudget(max_disagreement), np.random.default_rng(0), []
    for _ in range(6000):
        risk = float(rng.uniform(0, 0.5))
        charged.append(risk if risk <= budget.threshold else 0.0)
        budget.charge(charged[-1])
    assert np.mean(charged[3000:]) <= 1.1 * max_disagreement
    assert np.mean(charged[3000:]) >= 0.01 * max_disagreement


@given(
    st.floats(0.0001, 0.9),
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.125, 0.25, 0.5, 1.0])), max_size=60),
)
def test_the_threshold_stays_between_its_bounds(max_disagreement: float, frames: list[tuple[float, float]]) -> None:
    budget = RiskBudget(max_disagreement)
    assert 0 < budget.threshold <= 0.4
    for cost, scale in frames:
        budget.charge(cost, scale)
        allowed = scale * max_disagreement
        assert min(0.4, 0.5 * allowed) <= budget.threshold <= min(0.4, 4.0 * allowed)


def test_the_threshold_rises_while_nothing_is_charged_and_falls_with_what_is() -> None:
    budget = RiskBudget(0.02)
    budget.restart()
    strict = budget.threshold
    for _ in range(2000):
        before = budget.threshold
        budget.charge(0.0)
        assert budget.threshold >= before
    assert budget.threshold == pytest.approx(4 * 0.02), "a quiet night earns no more than this"
    budget.charge(budget.threshold)
    assert strict < budget.threshold < 4 * 0.02


def test_a_charge_of_the_budget_leaves_the_threshold() -> None:
    budget = RiskBudget(0.02)
    before = budget.threshold
    for _ in range(100):
        budget.charge(0.02)
    assert budget.threshold == pytest.approx(before)


def test_after_a_restart_the_threshold_is_the_budget() -> None:
    budget = RiskBudget(0.02)
    budget.restart()
    assert budget.threshold == pytest.approx(0.02)
    budget.restart(0.25)
    assert budget.threshold == pytest.approx(0.005)


def test_a_stricter_scale_allows_less_at_once() -> None:
    budget = RiskBudget(0.02)
    for _ in range(2000):
        budget.charge(0.0)
    budget.charge(0.0, scale=0.5)
    assert budget.threshold <= 5 * 0.01
