"""A full detector behind a link."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.simulator.world import link_profiles
from cachenet.simulator.world.link_profiles import LinkProfile
from cachenet.simulator.world.remote_detector import RemoteDetector


def test_a_reply_takes_sending_round_trip_and_server() -> None:
    server = RemoteDetector(LinkProfile(100.0, 0.0, 8.0, 1e6, 0.0, 0.0), 0.05, seed=0)
    assert server.send(7, 49_780, 0, now=1.0)  # 50 kB at 1 MB/s
    assert server.arrived(1.199) == []
    assert server.arrived(1.201) == [7]
    assert server.arrived(2.0) == []
    assert server.bytes_up == 50_000


def test_a_quick_reply_arrives_at_once() -> None:
    server = RemoteDetector(LinkProfile(0.0, 0.0, 1e6, 1e6, 0.0, 0.0), 0.0, seed=0)
    assert server.send(0, 1000, 3, now=0.0)
    assert server.arrived(0.0) == [0]


def test_an_outage_delays_replies_and_nothing_queues_up() -> None:
    server = RemoteDetector(LinkProfile(10.0, 0.0, 8.0, 8.0, 0.0, outage_s=2.0), 0.01, seed=0)
    sent = [at for at in range(90, 125) if server.send(at, 1000, 0, at / 10)]
    during = [at for at in sent if 100 <= at < 120]
    assert len(during) <= 1, "the line is busy until the outage ends"
    assert sent[-1] == 124
    assert sorted(server.arrived(13.0)) == sent


@given(st.sampled_from(["lan", "lte", "3g", "sat", "lossy"]), st.integers(0, 5))
def test_every_question_has_one_reply_in_order(name: str, seed: int) -> None:
    server = RemoteDetector(link_profiles.load(name), 0.05, seed)
    sent, arrived = [], []
    for at in range(60):
        arrived += server.arrived(at / 10)
        if server.send(at, 40_000, 5, at / 10):
            sent.append(at)
    arrived += server.arrived(100.0)
    assert arrived == sent
    assert 0 < len(sent) <= 60


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_delays(seed: int) -> None:
    def times() -> list[int]:
        server = RemoteDetector(link_profiles.load("lte"), 0.05, seed)
        return [len(server.arrived(at / 100)) for at in range(300) if at % 10 or server.send(at, 40_000, 5, at / 100)]

    assert times() == times()
