"""The queue in front of the full model: bounded, fair over devices, in batches."""

from __future__ import annotations

import math

import pytest
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


def serve(batcher: Batcher, clock: Clock, cost_ms: float = 1.0) -> list:
    """Run the next batch in ``cost_ms`` for each item."""
    batch = batcher.take()
    clock.now += len(batch.ready) * cost_ms / 1000
    batcher.done(batch, [cost_ms] * len(batch.ready))
    return items(batch.ready)


def test_a_full_queue_accepts_no_item_until_a_batch_leaves() -> None:
    batcher = Batcher(Clock(), bound=2, largest=1, share=1.0)
    refused = [batcher.offer(item, item, 1.0) for item in "abc"]
    assert [one and one.item for one in refused] == [None, None, "c"]
    batch = batcher.take()
    assert items(batch.ready) == ["a"]
    batcher.done(batch, [1.0])
    assert batcher.offer("d", "d", 1.0) is None
    assert batcher.drain() == ["b", "d"]
    assert len(batcher) == 0


def test_a_single_request_is_a_batch_at_once() -> None:
    batcher = Batcher(Clock(), bound=64, largest=16, share=1.0)
    batcher.offer("a", "cam", 0.1)
    assert items(batcher.take().ready) == ["a"]


def test_an_item_expires_exactly_at_the_end_of_its_budget() -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=8, largest=8, share=1.0)
    batcher.offer("spent", "cam", 0.0)
    batcher.offer("short", "cam", 1.0)
    batcher.offer("long", "cam", 1.5)
    clock.now = 1.0
    batch = batcher.take()
    assert items(batch.expired) == ["spent", "short"]
    assert items(batch.ready) == ["long"]
    assert batch.ready[0].arrived == 0.0


def test_expired_items_do_not_count_towards_the_batch_size() -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=10, largest=2, share=1.0)
    for item, budget in (("a", 0.0), ("b", 9.0), ("c", 0.0), ("d", 9.0), ("e", 9.0)):
        batcher.offer(item, "cam", budget)
    batch = batcher.take()
    assert (items(batch.expired), items(batch.ready)) == (["a", "c"], ["b", "d"])


def test_background_items_run_alone_when_the_queue_is_empty() -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=6, largest=8, share=1.0)
    refused = [batcher.offer(item, "cam", 5.0, background=True) for item in "abcd"]
    assert [one and one.item for one in refused] == [None, None, None, "d"]
    assert batcher.offer("live", "cam", 5.0) is None, "background items do not fill the queue"
    assert [serve(batcher, clock) for _ in range(2)] == [["live"], ["a"]]
    clock.now = 6.0
    batch = batcher.take()
    assert (items(batch.expired), batch.ready) == (["b", "c"], [])
    assert batcher.offer("e", "cam", 5.0, background=True) is None
    assert batcher.drain() == ["e"]
    assert len(batcher) == 0


def test_a_flood_of_one_device_does_not_delay_another_by_more_than_a_batch() -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=64, largest=16, share=0.25)
    batcher.offer(0, "flood", 10.0)
    serve(batcher, clock, 20.0)
    for number in range(40):
        batcher.offer(number, "flood", 10.0)
    running = serve(batcher, clock, 20.0)
    batcher.offer("question", "honest", 0.25)
    assert len(running) == 5, "a batch is expected to take a tenth of a second at most"
    assert "question" in serve(batcher, clock, 20.0)[:2]


def test_a_device_over_its_quota_has_one_place_while_a_device_within_its_quota_waits() -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=64, largest=1, share=0.5)
    for number in range(5):
        batcher.offer(number, "busy", 10.0)
    for _ in range(5):
        serve(batcher, clock, 1000.0)
    assert [batcher.offer(number, "busy", 10.0) for number in range(3)] == [None] * 3, "nobody else waits"
    batcher.offer("question", "honest", 10.0)
    refused = batcher.offer(3, "busy", 10.0)
    assert refused is not None
    assert (refused.item, refused.over_quota) == (3, True)
    clock.now += refused.retry_after_ms / 1000
    assert batcher.offer(4, "busy", 10.0) is None, "after the stated time it has a place again"


def test_the_time_of_an_idle_server_is_owed_for_two_seconds_at_most() -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=64, largest=1, share=0.5)
    for number in range(30):
        batcher.offer(number, "busy", 99.0)
        serve(batcher, clock, 1000.0)
    batcher.offer("first", "busy", 99.0)
    batcher.offer("question", "honest", 10.0)
    refused = batcher.offer("second", "busy", 99.0)
    assert refused is not None
    assert refused.retry_after_ms == 2001


@pytest.mark.parametrize("dear_is_refused", [False, True])
def test_cheap_refused_requests_do_not_make_the_next_batch_longer(dear_is_refused: bool) -> None:
    """As of pictures without a valid header, before pictures that take long, be they refused or not."""
    batcher = Batcher(Clock(), bound=64, largest=16, share=0.25)
    for cost_ms, answered in [(30.0, not dear_is_refused), *40 * [(0.1, False)]]:
        batcher.offer("one", "rogue", 10.0)
        batcher.done(batcher.take(), [cost_ms], [answered])
    for _ in range(16):
        batcher.offer("dear", "rogue", 10.0)
    assert len(batcher.take().ready) * 30.0 <= 100.0


def test_what_never_ran_is_not_charged() -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=64, largest=1, share=0.001)
    for number in range(20):
        batcher.offer(number, "late", 0.0)
    batch = batcher.take()
    assert len(batch.expired) == 20
    batcher.done(batch, [])
    batcher.offer("question", "honest", 10.0)
    assert [batcher.offer(number, "late", 1.0) for number in range(5)] == [None] * 5, "its bucket is still full"


costs = st.lists(st.floats(0.1, 50.0), min_size=1, max_size=30)


@given(st.dictionaries(st.sampled_from("abcd"), costs, min_size=2))
def test_devices_with_queued_items_get_equal_time_within_a_largest_item_of_each(jobs: dict[str, list[float]]) -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=1000, largest=1, share=1.0)
    for device, own in jobs.items():
        for cost in own:
            assert batcher.offer(cost, device, math.inf) is None
    served, left = dict.fromkeys(jobs, 0.0), {device: len(own) for device, own in jobs.items()}
    largest = max(max(own) for own in jobs.values())
    while min(left.values()) > 0:
        batch = batcher.take()
        (one,) = batch.ready
        clock.now += one.item / 1000
        batcher.done(batch, [one.item])
        served[one.device] += one.item
        left[one.device] -= 1
        assert max(served.values()) - min(served.values()) <= 2 * largest + 1e-6


@given(costs, st.integers(1, 16), st.floats(0.01, 1.0))
def test_a_device_alone_gets_every_place_and_all_time_whatever_it_has_spent(
    jobs: list[float], largest: int, share: float
) -> None:
    clock = Clock()
    batcher = Batcher(clock, bound=2 * len(jobs), largest=largest, share=share)
    for _ in range(3):
        assert [batcher.offer(cost, "alone", math.inf) for cost in jobs] == [None] * len(jobs)
        received = []
        while batcher:
            batch = batcher.take()
            assert batch.ready, "an idle server with a queued item runs it"
            batcher.done(batch, [one.item for one in batch.ready])
            received += items(batch.ready)
        assert received == jobs


@given(st.integers(1, 9), st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=60))
def test_a_full_queue_drops_from_the_device_that_has_most(bound: int, offers: list[tuple[str, bool]]) -> None:
    """Each step offers an item of a device, and may take a batch."""
    clock = Clock()
    batcher = Batcher(clock, bound, 2, share=1.0)
    counts = dict.fromkeys("abcde", 0)
    for number, (device, takes) in enumerate(offers):
        refused = batcher.offer((device, number), device, math.inf)
        counts[device] += 1
        if refused is not None:
            loser = refused.item[0]
            assert counts[loser] == max(counts.values()) or counts[device] > math.ceil(bound / 2)
            assert loser == device or counts[loser] > counts[device], "the newcomer keeps its place"
            assert not refused.over_quota
            assert refused.retry_after_ms >= 1
            counts[loser] -= 1
        if takes:
            for one in serve(batcher, clock):
                counts[one[0]] -= 1
        assert len(batcher) == sum(counts.values()) <= bound
        assert max(counts.values()) <= math.ceil(bound / 2)


@given(
    bound=st.integers(1, 6),
    largest=st.integers(1, 4),
    share=st.floats(0.01, 1.0),
    steps=st.lists(
        st.one_of(st.floats(0, 3), st.just("take"), st.tuples(st.floats(0, 3), st.sampled_from("ab"), st.booleans())),
        max_size=60,
    ),
)
def test_every_item_leaves_exactly_once_and_in_the_order_of_its_device(
    bound: int, largest: int, share: float, steps: list
) -> None:
    """Steps: a float advances the clock, a tuple offers an item with that budget, of that device, for that queue."""
    clock = Clock()
    batcher = Batcher(clock, bound, largest, share)
    offered, refused, expired, ready = 0, [], [], []
    for step in [*steps, *["take"] * len(steps)]:
        if step == "take":
            length_before = len(batcher)
            batch = batcher.take()
            batcher.done(batch, [30.0] * len(batch.ready))
            assert len(batch.ready) <= largest
            assert bool(batch.ready or batch.expired) == (length_before > 0)
            assert all(clock.now < one.expires for one in batch.ready)
            assert all(clock.now >= one.expires for one in batch.expired)
            assert len(batch.ready) + len(batch.expired) + len(batcher) == length_before
            ready += items(batch.ready)
            expired += items(batch.expired)
        elif isinstance(step, tuple):
            budget_s, device, background = step
            if (lost := batcher.offer((offered, device, background), device, budget_s, background)) is not None:
                refused.append(lost.item)
            offered += 1
        else:
            clock.now += step
        assert len(batcher) <= 2 * bound
    assert sorted(number for number, *_ in refused + expired + ready) == list(range(offered))
    for kind in {one[1:] for one in ready}:
        own = [one[0] for one in ready if one[1:] == kind]
        assert own == sorted(own)
