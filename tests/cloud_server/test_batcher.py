"""The queue in front of the full model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachenet.cloud_server.serving.batcher import Batcher


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def items(queued: list) -> list:
    return [one.item for one in queued]


def test_a_full_queue_accepts_no_item_until_a_batch_leaves() -> None:
    batcher = Batcher(Clock(), bound=2, largest=1)
    assert [batcher.offer(item, 1.0) for item in "abc"] == [True, True, False]
    assert items(batcher.take().ready) == ["a"]
    assert batcher.offer("d", 1.0)
    assert batcher.drain() == ["b", "d"]
    assert len(batcher) == 0


def test_a_single_request_is_a_batch_at_once() -> None:
    batcher = Batcher(Clock(), bound=64, largest=16)
    batcher.offer("a", 0.1)
    assert items(batcher.take().ready) == ["a"]


def test_an_item_expires_exactly_at_the_end_of_its_budget() -> None:
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


def test_expired_items_do_not_count_towards_the_batch_size() -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=8, largest=2)
    for item, budget in (("a", 0.0), ("b", 9.0), ("c", 0.0), ("d", 9.0), ("e", 9.0)):
        batcher.offer(item, budget)
    batch = batcher.take()
    assert (items(batch.expired), items(batch.ready)) == (["a", "c"], ["b", "d"])


def test_background_items_run_alone_when_the_queue_is_empty() -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=3, largest=8)
    assert [batcher.offer(item, 5.0, background=True) for item in "abcd"] == [True, True, True, False]
    assert batcher.offer("live", 5.0), "background items do not fill the queue"
    assert [items(batcher.take().ready) for _ in range(2)] == [["live"], ["a"]]
    clock.now = 6.0
    batch = batcher.take()
    assert (items(batch.expired), batch.ready) == (["b", "c"], [])
    assert batcher.offer("e", 5.0, background=True)
    assert batcher.drain() == ["e"]
    assert len(batcher) == 0


@given(
    bound=st.integers(1, 6),
    largest=st.integers(1, 4),
    steps=st.lists(st.one_of(st.floats(0, 3), st.just("take"), st.tuples(st.floats(0, 3))), max_size=60),
)
def test_every_item_leaves_exactly_once_and_in_order(bound: int, largest: int, steps: list) -> None:
    """Steps: a float advances the clock, a tuple offers an item with that budget."""
    clock = Clock()
    batcher = Batcher(clock, bound, largest)
    offered, refused, expired, ready = 0, [], [], []
    for step in [*steps, *["take"] * len(steps)]:
        if step == "take":
            length_before = len(batcher)
            batch = batcher.take()
            assert len(batch.ready) <= largest
            assert all(clock.now < one.expires for one in batch.ready)
            assert all(clock.now >= one.expires for one in batch.expired)
            for part in (batch.ready, batch.expired):
                assert items(part) == sorted(items(part))
            assert len(batch.ready) + len(batch.expired) + len(batcher) == length_before
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
