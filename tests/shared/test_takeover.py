"""How two clients of one id are found out, on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.transport.backoff import Backoff
from cachenet.shared.transport.takeover import TakeoverMonitor


class Clock:
    """Seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def monitor(clock: Clock) -> TakeoverMonitor:
    """Without jitter."""
    return TakeoverMonitor(clock, Backoff(0.5, 120.0, uniform=lambda low, high: (low + high) / 2))


def connection(watched: TakeoverMonitor, clock: Clock, lasts: float, taken_over: bool) -> float | None:
    watched.accepted()
    clock.now += lasts
    return watched.ended(taken_over)


@pytest.mark.parametrize("taken_over", [True, False])
def test_three_consecutive_short_connections_are_a_conflict_with_or_without_a_reason(taken_over: bool) -> None:
    clock = Clock()
    watched = monitor(clock)
    assert [connection(watched, clock, 0.1, taken_over) for _ in range(2)] == [0.5, 1.0]
    assert not watched.conflict
    assert connection(watched, clock, 0.1, taken_over) == 2.0
    assert watched.conflict


def test_longer_connections_without_a_reason_are_no_takeover() -> None:
    clock = Clock()
    watched = monitor(clock)
    assert [connection(watched, clock, 11.0, taken_over=False) for _ in range(10)] == [None] * 10
    assert not watched.conflict


def test_attempts_that_the_broker_never_accepted_are_no_takeover() -> None:
    watched = monitor(Clock())
    assert [watched.ended(taken_over=False) for _ in range(10)] == [None] * 10
    assert not watched.conflict


def test_a_connection_that_lasts_ends_the_conflict() -> None:
    clock = Clock()
    watched = monitor(clock)
    for _ in range(5):
        delay = connection(watched, clock, 0.1, taken_over=True)
    assert delay is not None
    watched.accepted()
    clock.now += 30.0 + 2 * delay - 0.1
    assert watched.conflict
    clock.now += 0.2
    assert not watched.conflict
    assert watched.ended(taken_over=True) == 0.5


@given(st.lists(st.tuples(st.floats(0, 29), st.booleans()), max_size=50))
def test_delays_stay_within_minutes(connections: list[tuple[float, bool]]) -> None:
    clock = Clock()
    watched = TakeoverMonitor(clock)
    for lasts, taken_over in connections:
        delay = connection(watched, clock, lasts, taken_over)
        assert delay is None or 0.25 <= delay <= 180


def test_two_clients_that_back_off_connect_seldom() -> None:
    """Each ends the other's connection; simulated for an hour."""
    clock = Clock()
    watched = [TakeoverMonitor(clock) for _ in range(2)]
    due = [0.0, 0.1]
    connected: int | None = None
    attempts = 0
    while clock.now < 3600:
        which = due.index(min(due))
        clock.now = due[which]
        if connected is not None:
            delay = watched[connected].ended(taken_over=True)
            assert delay is not None
            due[connected] = clock.now + delay
        watched[which].accepted()
        connected, due[which] = which, float("inf")
        attempts += 1
    assert attempts < 120
    assert any(each.conflict for each in watched)
