"""Lanes: what TCP promises (order, wholeness) and what the profile asks (delay, rate), for any traffic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.simulator.world import links
from cachenet.simulator.world.lane import SEGMENT, LinkDirection, lanes

_traffic = st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 100_000)), min_size=1, max_size=60)
_links = st.sampled_from([links.load(name) for name in links.profiles()])


def _arrivals(lane: LinkDirection, traffic: list[tuple[float, int]]) -> list[tuple[float, float, int]]:
    """(entered, arrived, bytes) of writes that follow each other at the given gaps."""
    now, seen = 0.0, []
    for gap, nbytes in traffic:
        now += gap
        seen.append((now, lane.schedule(now, nbytes), nbytes))
    return seen


@given(_links, _traffic, st.integers(0, 2**31))
def test_order_delay_and_rate_hold(profile: links.LinkProfile, traffic: list[tuple[float, int]], seed: int) -> None:
    for lane in lanes(profile, seed):
        seen = _arrivals(lane, traffic)
        arrived = [at for _, at, _ in seen]
        assert arrived == sorted(arrived)
        for entered, at, nbytes in seen:
            assert at >= entered + lane.delay_s + nbytes / lane.bytes_per_s - 1e-9
        for first in range(len(seen)):
            carried = sum(nbytes for _, _, nbytes in seen[first:])
            took = arrived[-1] - seen[first][0] - lane.delay_s
            assert carried <= took * lane.bytes_per_s + 1e-3


@given(_traffic, st.integers(0, 2**31))
def test_same_seed_same_link(traffic: list[tuple[float, int]], seed: int) -> None:
    lossy = links.load("lossy")
    for once, again in zip(lanes(lossy, seed), lanes(lossy, seed), strict=True):
        assert _arrivals(once, traffic) == _arrivals(again, traffic)


def test_back_to_back_writes_queue() -> None:
    lane = LinkDirection(rtt_ms=100, jitter_ms=0, mbit=8, loss=0, seed=0)
    assert lane.schedule(0.0, 10_000) == pytest.approx(0.060)
    assert lane.schedule(0.0, 10_000) == pytest.approx(0.070)
    assert lane.schedule(1.0, 0) == pytest.approx(1.050)


def test_jitter_has_the_asked_spread() -> None:
    lane = LinkDirection(rtt_ms=8, jitter_ms=3, mbit=1000, loss=0, seed=1)
    extra = [lane.schedule(float(second), 1) - second - lane.delay_s for second in range(4000)]
    root_mean_square = (sum(x * x for x in extra) / len(extra)) ** 0.5
    # Half of a normal distribution: half of its second moment.
    assert root_mean_square == pytest.approx(0.003 / 2, rel=0.1)


def test_losses_cost_a_timer_or_a_round_trip() -> None:
    alone = LinkDirection(rtt_ms=8, jitter_ms=0, mbit=1e6, loss=0.05, seed=2)
    late = [alone.schedule(10.0 * n, 100) - 10.0 * n > 0.2 for n in range(4000)]
    assert sum(late) / len(late) == pytest.approx(0.05, abs=0.015)

    bulk = LinkDirection(rtt_ms=8, jitter_ms=0, mbit=1e6, loss=0.002, seed=2)
    waits = [bulk.schedule(10.0 * n, 40 * SEGMENT) - 10.0 * n for n in range(2000)]
    repaired_fast = [wait for wait in waits if 0.0115 < wait < 0.0125]
    assert len(repaired_fast) > 3 * sum(wait > 0.2 for wait in waits) > 0


def test_what_follows_a_loss_waits_for_it() -> None:
    lane = LinkDirection(rtt_ms=8, jitter_ms=0, mbit=30, loss=0.5, seed=3)
    now = 0.0
    while lane.schedule(now, 100) < now + 0.2:
        now += 0.001
    held_until = lane.schedule(now, 0)
    assert lane.schedule(now + 0.001, 100) >= held_until > now + 0.2


_courses = st.lists(
    st.tuples(st.floats(0.01, 2), st.floats(0, 100), st.one_of(st.just(0.0), st.floats(0.1, 50))),
    min_size=1,
    max_size=6,
).filter(lambda course: any(rate for _, _, rate in course))


@given(_courses, _traffic)
def test_a_recorded_link_carries_no_more_than_its_rates_allow_and_keeps_the_order(
    course: list[tuple[float, float, float]], traffic: list[tuple[float, int]]
) -> None:
    lane = LinkDirection(0, 0, 1, 0, 0, course)
    seen = _arrivals(lane, traffic)
    arrived = [at for _, at, _ in seen]
    assert arrived == sorted(arrived)
    period = sum(long for long, _, _ in course)
    most = sum(long * rate * 1e6 / 8 for long, _, rate in course)
    slowest = max(rtt for _, rtt, _ in course) / 2e3
    for first in range(len(seen)):
        carried = sum(nbytes for _, _, nbytes in seen[first:])
        turns = (arrived[-1] - seen[first][0]) // period + 1
        assert carried <= most * turns + 1e-3
    assert all(at >= entered for entered, at, _ in seen)
    # And no less: a line that is never idle for a whole turn carries a whole turn's bytes in each.
    total = sum(nbytes for _, _, nbytes in seen)
    assert arrived[-1] <= seen[-1][0] + (total / most + 1) * period + slowest + 1e-6


def test_bytes_on_a_recorded_link_go_on_at_the_new_rate_and_the_course_begins_again() -> None:
    lane = LinkDirection(0, 0, 1, 0, 0, [(1.0, 20.0, 8.0), (1.0, 60.0, 0.0), (2.0, 40.0, 0.8)])
    assert lane.schedule(0.0, 500_000) == pytest.approx(0.5 + 0.010)
    assert lane.schedule(0.5, 550_000) == pytest.approx(2.5 + 0.020)  # half a second, a dead one, half a slow one
    assert lane.schedule(4.0, 1000) == pytest.approx(4.001 + 0.010)
    assert lane.busy_s == pytest.approx(0.5 + 2.0 + 0.001)


def test_a_recorded_link_of_one_moment_is_a_constant_one() -> None:
    constant, recorded = LinkDirection(40, 0, 8, 0, 0), LinkDirection(40, 0, 8, 0, 0, [(1.0, 40.0, 8.0)])
    for at in range(30):
        assert recorded.schedule(0.7 * at, 100_000) == pytest.approx(constant.schedule(0.7 * at, 100_000))
