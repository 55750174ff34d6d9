"""Directions of a link: TCP's order and completeness, and the profile's delay and rate, for any traffic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.simulator.world import link_profiles
from cachenet.simulator.world.link_direction import SEGMENT, LinkDirection, directions

_traffic = st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 100_000)), min_size=1, max_size=60)
_links = st.sampled_from([link_profiles.load(name) for name in link_profiles.profiles()])


def _arrivals(direction: LinkDirection, traffic: list[tuple[float, int]]) -> list[tuple[float, float, int]]:
    """(entered, arrived, bytes) of writes that follow each other at the given gaps."""
    now, writes = 0.0, []
    for gap, nbytes in traffic:
        now += gap
        writes.append((now, direction.schedule(now, nbytes), nbytes))
    return writes


@given(_links, _traffic, st.integers(0, 2**31))
def test_order_delay_and_rate_hold(
    profile: link_profiles.LinkProfile, traffic: list[tuple[float, int]], seed: int
) -> None:
    for direction in directions(profile, seed):
        writes = _arrivals(direction, traffic)
        arrived = [at for _, at, _ in writes]
        assert arrived == sorted(arrived)
        for entered, at, nbytes in writes:
            assert at >= entered + direction.delay_s + nbytes / direction.bytes_per_s - 1e-9
        for first in range(len(writes)):
            carried = sum(nbytes for _, _, nbytes in writes[first:])
            took = arrived[-1] - writes[first][0] - direction.delay_s
            assert carried <= took * direction.bytes_per_s + 1e-3


@given(_traffic, st.integers(0, 2**31))
def test_same_seed_same_link(traffic: list[tuple[float, int]], seed: int) -> None:
    lossy = link_profiles.load("lossy")
    for once, again in zip(directions(lossy, seed), directions(lossy, seed), strict=True):
        assert _arrivals(once, traffic) == _arrivals(again, traffic)


def test_back_to_back_writes_queue() -> None:
    direction = LinkDirection(rtt_ms=100, jitter_ms=0, mbit=8, loss=0, seed=0)
    assert direction.schedule(0.0, 10_000) == pytest.approx(0.060)
    assert direction.schedule(0.0, 10_000) == pytest.approx(0.070)
    assert direction.schedule(1.0, 0) == pytest.approx(1.050)


def test_jitter_has_the_spread_of_the_profile() -> None:
    direction = LinkDirection(rtt_ms=8, jitter_ms=3, mbit=1000, loss=0, seed=1)
    extra = [direction.schedule(float(second), 1) - second - direction.delay_s for second in range(4000)]
    root_mean_square = (sum(x * x for x in extra) / len(extra)) ** 0.5
    # Half of a normal distribution: half of its second moment.
    assert root_mean_square == pytest.approx(0.003 / 2, rel=0.1)


def test_a_loss_costs_a_timer_or_a_round_trip() -> None:
    alone = LinkDirection(rtt_ms=8, jitter_ms=0, mbit=1e6, loss=0.05, seed=2)
    late = [alone.schedule(10.0 * n, 100) - 10.0 * n > 0.2 for n in range(4000)]
    assert sum(late) / len(late) == pytest.approx(0.05, abs=0.015)

    bulk = LinkDirection(rtt_ms=8, jitter_ms=0, mbit=1e6, loss=0.002, seed=2)
    waits = [bulk.schedule(10.0 * n, 40 * SEGMENT) - 10.0 * n for n in range(2000)]
    repaired_fast = [wait for wait in waits if 0.0115 < wait < 0.0125]
    assert len(repaired_fast) > 3 * sum(wait > 0.2 for wait in waits) > 0


def test_bytes_after_a_loss_wait_for_its_repair() -> None:
    direction = LinkDirection(rtt_ms=8, jitter_ms=0, mbit=30, loss=0.5, seed=3)
    now = 0.0
    while direction.schedule(now, 100) < now + 0.2:
        now += 0.001
    held_until = direction.schedule(now, 0)
    assert direction.schedule(now + 0.001, 100) >= held_until > now + 0.2


_histories = st.lists(
    st.tuples(st.floats(0.01, 2), st.floats(0, 100), st.one_of(st.just(0.0), st.floats(0.1, 50))),
    min_size=1,
    max_size=6,
).filter(lambda history: any(rate for _, _, rate in history))


@given(_histories, _traffic)
def test_a_recorded_link_carries_no_more_than_its_rates_allow_and_keeps_the_order(
    history: list[tuple[float, float, float]], traffic: list[tuple[float, int]]
) -> None:
    direction = LinkDirection(0, 0, 1, 0, 0, history)
    writes = _arrivals(direction, traffic)
    arrived = [at for _, at, _ in writes]
    assert arrived == sorted(arrived)
    period = sum(long for long, _, _ in history)
    most = sum(long * rate * 1e6 / 8 for long, _, rate in history)
    slowest = max(rtt for _, rtt, _ in history) / 2e3
    for first in range(len(writes)):
        carried = sum(nbytes for _, _, nbytes in writes[first:])
        turns = (arrived[-1] - writes[first][0]) // period + 1
        assert carried <= most * turns + 1e-3
    assert all(at >= entered for entered, at, _ in writes)
    # And no less: a line that is busy for a whole period carries the bytes of a period.
    total = sum(nbytes for _, _, nbytes in writes)
    assert arrived[-1] <= writes[-1][0] + (total / most + 1) * period + slowest + 1e-6


def test_bytes_on_a_recorded_link_continue_at_the_new_rate_and_the_recording_repeats() -> None:
    direction = LinkDirection(0, 0, 1, 0, 0, [(1.0, 20.0, 8.0), (1.0, 60.0, 0.0), (2.0, 40.0, 0.8)])
    assert direction.schedule(0.0, 500_000) == pytest.approx(0.5 + 0.010)
    assert direction.schedule(0.5, 550_000) == pytest.approx(2.5 + 0.020)  # half a second, a dead one, half a slow one
    assert direction.schedule(4.0, 1000) == pytest.approx(4.001 + 0.010)
    assert direction.busy_s == pytest.approx(0.5 + 2.0 + 0.001)


def test_a_recorded_link_of_one_moment_is_a_constant_one() -> None:
    constant, recorded = LinkDirection(40, 0, 8, 0, 0), LinkDirection(40, 0, 8, 0, 0, [(1.0, 40.0, 8.0)])
    for at in range(30):
        assert recorded.schedule(0.7 * at, 100_000) == pytest.approx(constant.schedule(0.7 * at, 100_000))
