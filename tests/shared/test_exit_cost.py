"""Whether an early exit is looked up depends on what its hits save and what its lookups take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.inference.exit_cost import ExitCostModel


def observed(hit_rate: float, lookup_s: float, remainder_s: float, batches: int = 200, rows: int = 20) -> ExitCostModel:
    """A model after batches of ``rows``."""
    model = ExitCostModel()
    for _ in range(batches):
        hits = round(hit_rate * rows)
        model.record_lookup(rows, lookup_s * rows)
        model.record_hits(hits, rows)
        model.record_remainder(rows - hits, remainder_s * (rows - hits))
    return model


def test_an_exit_is_worthwhile_until_its_times_are_known() -> None:
    model = ExitCostModel()
    assert model.is_worthwhile
    model.record_hits(0, 1000)
    model.record_lookup(10, 1.0)
    assert model.is_worthwhile
    model.record_remainder(10, 1.0)
    assert not model.is_worthwhile


@given(st.floats(0.0, 1.0), st.floats(0.001, 1.0), st.floats(0.001, 1.0))
def test_an_exit_is_worthwhile_where_the_time_saved_exceeds_the_time_of_lookups(
    hit_rate: float, lookup_s: float, remainder_s: float
) -> None:
    rate = round(20 * hit_rate) / 20
    if rate == 1.0 or abs(rate * remainder_s - lookup_s) < 0.01 * lookup_s:  # no remainder, or too close to decide
        return
    assert observed(hit_rate, lookup_s, remainder_s).is_worthwhile == (rate * remainder_s > lookup_s)


def test_exits_that_are_not_worthwhile_are_explored_in_one_of_32_batches_and_in_different_ones() -> None:
    explored = []
    for number in range(4):
        model = ExitCostModel(number)
        model.record_hits(0, 1000)
        model.record_lookup(10, 1.0)
        model.record_remainder(10, 1.0)
        batches = [batch for batch in range(320) if model.should_probe()]
        assert len(batches) == 10
        explored.append(batches[0])
    assert len(set(explored)) == 4


def test_an_exit_returns_when_its_hits_do() -> None:
    model = observed(0.0, 0.5, 1.0)
    assert not model.is_worthwhile
    for _ in range(20):
        model.record_hits(20, 20)  # an exploration stands for 32 batches
    assert model.is_worthwhile
