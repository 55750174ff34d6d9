"""The allowance: what hits claim together stays what may be claimed, whatever the stream."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.allowance import _FIRST, _LEAST, _RATE, Allowance

claims = st.floats(0.0005, 0.07)
risks = st.lists(st.floats(0.0, 1.0), max_size=300)


@given(claims, risks)
def test_hits_never_claim_more_than_is_allowed_but_for_what_it_began_with(claim: float, risks: list[float]) -> None:
    allowance, claimed = Allowance(claim), 0.0
    for risk in risks:
        hit = risk <= allowance.threshold
        claimed += risk if hit else 0.0
        allowance.spend(risk if hit else 0.0)
    begun = math.log(_FIRST / _LEAST) / _RATE
    assert claimed <= claim * (len(risks) + begun) + 1e-9


@given(claims, risks, st.floats(0.01, 4.0))
def test_no_threshold_is_ever_out_of_bounds(claim: float, risks: list[float], factor: float) -> None:
    allowance = Allowance(claim)
    for risk in risks:
        allowance.spend(risk, factor)
        assert _LEAST * claim <= allowance.threshold <= min(0.5, 20 * claim)


def test_a_stream_that_is_mostly_sure_may_risk_more_with_the_rest_than_one_that_seldom_is() -> None:
    """Nine frames of ten without risk, or none, and the others of all risks alike."""
    reached = []
    for sure in (9, 0):
        allowance, claimed = Allowance(0.01), []
        for number in range(20_000):
            risk = 0.0 if number % 10 < sure else (number * 7919 % 1000) / 1000
            hit = risk <= allowance.threshold
            claimed.append(risk if hit else 0.0)
            allowance.spend(claimed[-1])
        reached.append(allowance.threshold)
        assert sum(claimed[5_000:]) / 15_000 <= 0.0101
    assert reached[0] == pytest.approx(0.2, rel=0.1)
    assert reached[1] == pytest.approx(math.sqrt(2 * 0.01), rel=0.2)  # the threshold t at which t * t / 2 is the claim


def test_where_nothing_may_be_claimed_nothing_with_a_risk_is_a_hit() -> None:
    allowance = Allowance(0.0)
    for _ in range(100):
        allowance.spend(0.0)
    assert allowance.threshold == 0.0


def test_doubt_lowers_what_is_claimed_in_that_proportion_at_least() -> None:
    def claimed(factor: float) -> float:
        allowance, found = Allowance(0.01), []
        for number in range(20_000):
            risk = (number * 7919 % 1000) / 1000
            hit = risk <= factor * allowance.threshold
            found.append(risk if hit else 0.0)
            allowance.spend(found[-1], factor)
        return sum(found[5_000:]) / 15_000

    assert 0 < claimed(0.25) <= 0.26 * claimed(1.0)
