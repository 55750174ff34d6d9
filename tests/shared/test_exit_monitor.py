"""Exits lose trust when their error rate is over the limit, and regain it when checks show that it is within."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.inference.exit_monitor import ExitMonitor

ALLOWED = 0.02


@given(st.lists(st.booleans(), max_size=300), st.sampled_from([0.005, 0.02, 0.2]))
def test_a_change_of_trust_is_reported_exactly_when_it_happens(checks: list[bool], allowed: float) -> None:
    monitor = ExitMonitor(allowed)
    assert monitor.trusted
    for wrong in checks:
        before = monitor.trusted
        assert monitor.add(wrong) == (monitor.trusted != before)


def test_right_answers_never_cost_trust() -> None:
    monitor = ExitMonitor(ALLOWED)
    assert not any(monitor.add(False) for _ in range(1000))


def test_an_error_rate_at_the_limit_seldom_costs_trust() -> None:
    rng = np.random.default_rng(0)
    lost = 0
    for _ in range(50):
        monitor = ExitMonitor(ALLOWED)
        lost += any(monitor.add(bool(rng.random() < ALLOWED)) for _ in range(500))
    assert lost <= 5


def test_a_high_error_rate_costs_trust_and_right_answers_restore_it() -> None:
    rng = np.random.default_rng(1)
    monitor = ExitMonitor(ALLOWED)
    assert any(monitor.add(bool(rng.random() < 10 * ALLOWED)) for _ in range(500))
    assert not monitor.trusted
    needed = next(count for count in range(1, 2000) if monitor.add(False))
    assert monitor.trusted
    assert needed > 1 / ALLOWED, "a bound of 2 % takes more than 50 right answers"
