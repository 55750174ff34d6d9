"""The window of posted requests, on links and servers that take requests one after the other."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.request_window import RequestWindow


def ages(window: RequestWindow, fps: float, delay_s: float, service_s: float, seconds: float = 20.0) -> list[float]:
    """Ages of the replies, seconds, if every frame that the window allows is posted.

    Args:
        delay_s: Round trip of the empty link, without ``service_s``, seconds.
        service_s: Time of a request on the link's bottleneck or on the server, seconds, one after the other.
    """
    found: list[float] = []
    under_way: list[tuple[float, float]] = []  # time of the reply, time of posting
    free_at = 0.0
    for frame in range(round(seconds * fps)):
        now = frame / fps
        while under_way and under_way[0][0] <= now:
            replied, posted = under_way[0]
            window.replied(len(under_way), replied - posted)
            heapq.heappop(under_way)
            found.append(replied - posted)
        if window.allows(len(under_way)):
            free_at = max(free_at, now) + service_s
            heapq.heappush(under_way, (free_at + delay_s, now))
    return found


@pytest.mark.parametrize(
    ("fps", "delay_s", "service_s", "share", "longest"),
    [
        pytest.param(10, 0.008, 0.025, 0.95, 1.1, id="wifi"),
        pytest.param(10, 0.050, 0.075, 0.9, 1.1, id="lte, every frame"),
        pytest.param(30, 0.050, 0.050, 0.7, 1.9, id="lte, more frames than it carries"),
        pytest.param(10, 0.120, 0.500, 0.7, 1.9, id="3g"),
        pytest.param(30, 0.120, 0.500, 0.7, 1.9, id="3g, three times the frames"),
        pytest.param(30, 0.300, 0.025, 0.5, 1.1, id="a long round trip"),
    ],
)
def test_a_link_is_used_and_replies_are_hardly_later_than_on_an_empty_one(
    fps: float, delay_s: float, service_s: float, share: float, longest: float
) -> None:
    """``share``: of the requests that link and frames allow; ``longest``: median age over that of an empty link."""
    window, seconds = RequestWindow(), 20.0
    found = ages(window, fps, delay_s, service_s, seconds)
    assert len(found) >= share * seconds * min(fps, 1 / service_s)
    assert np.median(found) <= longest * (delay_s + service_s)


def test_requests_that_are_rare_do_not_widen_the_window() -> None:
    """Or the first burst would fill the queue of a slow link."""
    window = RequestWindow()
    for _ in range(100):
        window.replied(1, 0.5)
        assert not window.allows(2)


def test_a_link_that_turns_slow_narrows_the_window_at_once() -> None:
    window = RequestWindow()
    for _ in range(50):
        window.replied(8, 0.1)
    assert window.allows(7) and not window.allows(8)
    for _ in range(6):
        window.replied(8, 2.0)
    assert window.allows(0) and not window.allows(1)


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0, 100)), max_size=100))
def test_after_any_replies_one_request_is_allowed_and_at_most_eight(replies: list[tuple[int, float]]) -> None:
    window = RequestWindow()
    for under_way, round_trip_s in replies:
        window.replied(under_way, round_trip_s)
    assert window.allows(0) and not window.allows(8)
