"""The schedule of a fault run follows from its seed, and never gives one process two faults at once."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.faults.schedule import BROKER, SERVER, schedule

POSSIBLE = {"server": SERVER, "broker": BROKER, "one": (*SERVER, "corrupt"), "two": (*SERVER, "camera_gone")}
counts, intervals, seeds = st.integers(0, 25), st.floats(0.1, 5.0), st.text(max_size=8)


@given(seeds, counts, intervals)
def test_a_seed_gives_one_schedule_with_all_faults_in_order(seed: str, count: int, every_s: float) -> None:
    plan = schedule(seed, count, every_s, POSSIBLE)
    assert plan == schedule(seed, count, every_s, POSSIBLE)
    assert len(plan) == count
    assert list(plan) == sorted(plan)


@given(seeds, counts, intervals)
def test_a_process_has_one_fault_at_a_time_of_a_kind_that_it_can_have(seed: str, count: int, every_s: float) -> None:
    plan = schedule(seed, count, every_s, POSSIBLE)
    for target, kinds in POSSIBLE.items():
        own = [fault for fault in plan if fault.target == target]
        assert all(before.end <= after.at for before, after in pairwise(own))
        assert all(fault.kind in kinds for fault in own)


@given(seeds, st.floats(0.5, 20.0))
def test_no_fault_is_longer_than_the_longest(seed: str, longest_s: float) -> None:
    plan = schedule(seed, 40, 2.0, POSSIBLE, longest_s)
    assert all(0 < fault.seconds <= longest_s and 0 <= fault.choice < 1 for fault in plan)


def test_a_long_schedule_has_every_fault_of_every_process_and_overlaps() -> None:
    plan = schedule("1", 600, 1.0, POSSIBLE)
    assert {(fault.target, fault.kind) for fault in plan} == {
        (name, one) for name in POSSIBLE for one in POSSIBLE[name]
    }
    assert any(before.end > after.at for before, after in pairwise(plan))


def test_another_seed_gives_another_schedule() -> None:
    assert schedule("1/0", 20, 1.0, POSSIBLE) != schedule("1/1", 20, 1.0, POSSIBLE)
