"""Exponential back-off."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.transport.backoff import Backoff


def exact(first_s: float, longest_s: float) -> Backoff:
    return Backoff(first_s, longest_s, uniform=lambda low, high: (low + high) / 2)


def test_delays_double_up_to_the_longest_and_start_again_after_a_success() -> None:
    backoff = exact(0.5, 3.0)
    assert [backoff.failed() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.failed() == 0.5


@given(st.floats(0.001, 10), st.floats(10, 1000), st.integers(1, 2000))
def test_a_delay_is_within_the_jitter_of_its_bound_after_any_number_of_failures(
    first_s: float, longest_s: float, failures: int
) -> None:
    backoff = Backoff(first_s, longest_s, jitter=0.2)
    for _ in range(failures):
        delay = backoff.failed()
        assert 0.8 * first_s <= delay <= 1.2 * longest_s
