"""The circuit breaker: when the cloud may be asked after failures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.circuit_breaker import CircuitBreaker


def test_it_opens_after_consecutive_failures() -> None:
    breaker = CircuitBreaker(tolerance=3, pause=1.0)
    for _ in range(2):
        breaker.failed(10.0)
        assert breaker.allows(10.0)
    breaker.succeeded()
    for _ in range(2):
        breaker.failed(10.0)
        assert not breaker.open
    breaker.failed(10.0)
    assert breaker.open
    assert not breaker.allows(10.9)


def test_pauses_between_trials_double_up_to_the_longest() -> None:
    breaker, now, pauses = CircuitBreaker(tolerance=1, pause=1.0, longest=8.0), 0.0, []
    for _ in range(6):
        breaker.failed(now)
        begun = now
        while not breaker.allows(now):
            now += 0.25
        pauses.append(now - begun)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_successful_trial_closes_it() -> None:
    breaker = CircuitBreaker(tolerance=1, pause=1.0)
    breaker.failed(0.0)
    assert breaker.allows(1.0)
    breaker.succeeded()
    assert not breaker.open
    breaker.failed(1.0)
    assert breaker.allows(2.0), "the pause starts small again"


def test_a_long_outage_never_exceeds_the_longest_pause() -> None:
    breaker, now = CircuitBreaker(longest=8.0), 0.0
    for _ in range(5000):
        breaker.failed(now)
        now += 8.0
        assert breaker.allows(now)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 20)), max_size=60), st.integers(1, 5))
def test_it_never_refuses_for_longer_than_the_longest_pause(steps: list[tuple[bool, float]], tolerance: int) -> None:
    breaker, now, failures, since = CircuitBreaker(tolerance, 0.5, 8.0), 0.0, 0, -math.inf
    for works, later in steps:
        now += later
        allowed = breaker.allows(now)
        assert allowed or (failures >= tolerance and now - since < 8.0)
        if not allowed:
            continue
        failures = 0 if works else failures + 1
        if works:
            breaker.succeeded()
        else:
            breaker.failed(now)
            since = now
        assert breaker.open == (failures >= tolerance)


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_while_closed_every_request_is_allowed(failures: int) -> None:
    breaker = CircuitBreaker(tolerance=3)
    for _ in range(failures):
        breaker.failed(0.0)
    assert breaker.allows(0.0)
