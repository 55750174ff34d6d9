from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachenet.cloud_server.serving.batcher import Batcher


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def items(waiting: list) -> list:
    return [one.item for one in waiting]


def test_a_full_queue_takes_no_more_until_a_batch_leaves() -> None:
    batcher = Batcher(Clock(), bound=2, largest=1)
    assert [batcher.offer(item, 1.0) for item in "abc"] == [True, True, False]
    assert items(batcher.take().ready) == ["a"]
    assert batcher.offer("d", 1.0)
    assert batcher.drain() == ["b", "d"]
    assert len(batcher) == 0


def test_a_lone_request_is_taken_at_once() -> None:
    batcher = Batcher(Clock(), bound=64, largest=16)
    batcher.offer("a", 0.1)
    assert items(batcher.take().ready) == ["a"]


def test_the_budget_counts_from_arrival_and_ends_exactly() -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=8, largest=8)
    batcher.offer("spent", 0.0)
    batcher.offer("short", 1.0)
    batcher.offer("long", 1.5)
    clock.now = 1.0
    batch = batcher.take()
    assert items(batch.expired) == ["spent", "short"]
    assert items(batch.ready) == ["long"]
    assert batch.ready[0].arrived == 0.0


def test_expired_requests_take_no_place_in_a_batch() -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=8, largest=2)
    for item, budget in (("a", 0.0), ("b", 9.0), ("c", 0.0), ("d", 9.0), ("e", 9.0)):
        batcher.offer(item, budget)
    batch = batcher.take()
    assert (items(batch.expired), items(batch.ready)) == (["a", "c"], ["b", "d"])


def test_the_patient_are_taken_when_nobody_else_waits_and_one_at_a_time() -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=3, largest=8)
    assert [batcher.offer(item, 5.0, patient=True) for item in "abcd"] == [True, True, True, False]
    assert batcher.offer("live", 5.0), "the patient take nobody's place in the queue"
    assert [items(batcher.take().ready) for _ in range(2)] == [["live"], ["a"]]
    clock.now = 6.0
    batch = batcher.take()
    assert (items(batch.expired), batch.ready) == (["b", "c"], [])
    assert batcher.offer("e", 5.0, patient=True)
    assert batcher.drain() == ["e"]
    assert len(batcher) == 0


@given(
    bound=st.integers(1, 6),
    largest=st.integers(1, 4),
    steps=st.lists(st.one_of(st.floats(0, 3), st.just("take"), st.tuples(st.floats(0, 3))), max_size=60),
)
def test_every_request_leaves_exactly_once_and_in_order(bound: int, largest: int, steps: list) -> None:
    """A float lets time pass, a tuple is a request with that budget."""
    clock = Clock()
    batcher = Batcher(clock, bound, largest)
    offered, refused, expired, ready = 0, [], [], []
    for step in [*steps, *["take"] * len(steps)]:
        if step == "take":
            waiting_before = len(batcher)
            batch = batcher.take()
            assert len(batch.ready) <= largest
            assert all(clock.now < one.expires for one in batch.ready)
            assert all(clock.now >= one.expires for one in batch.expired)
            for part in (batch.ready, batch.expired):
                assert items(part) == sorted(items(part))
            assert len(batch.ready) + len(batch.expired) + len(batcher) == waiting_before
            ready += items(batch.ready)
            expired += items(batch.expired)
        elif isinstance(step, tuple):
            if not batcher.offer(offered, step[0]):
                assert len(batcher) == bound
                refused.append(offered)
            offered += 1
        else:
            clock.now += step
        assert len(batcher) <= bound
    assert sorted(refused + expired + ready) == list(range(offered))
    assert ready == sorted(ready)
