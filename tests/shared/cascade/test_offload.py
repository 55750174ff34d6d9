"""Where the full model is asked: over the network, or on the device."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.offload import OffloadRouter


def play(router: OffloadRouter, frames: int, round_trip: float, seconds: float = 0.05) -> list[bool]:
    """Which requests are answered on the device; the others take ``round_trip`` over the network."""
    taken = []
    for _ in range(frames):
        taken.append(router.use_device(seconds))
        if not taken[-1]:
            router.record_round_trip(round_trip)
    return taken


def test_the_network_is_asked_until_it_is_known_to_be_slower() -> None:
    assert play(OffloadRouter(), 10, 0.2) == [False] * 5 + [True] * 5


def test_a_slow_network_is_tried_again_with_exponential_backoff() -> None:
    taken = play(OffloadRouter(), 5000, 0.2)
    tried = [frame for frame, on_device in enumerate(taken) if not on_device][5:]
    assert tried == [36, 100, 228, 484, 996, 2020, 3044, 4068], "the pause doubles up to 1024 questions"


def test_a_network_that_gets_quicker_is_used_again() -> None:
    router = OffloadRouter()
    play(router, 40, 0.2)
    taken = play(router, 400, 0.01)
    assert not taken[-1]
    assert sum(taken) < 64, "one try is enough: what was known of the link is old"


def test_a_quick_network_is_always_asked() -> None:
    assert not any(play(OffloadRouter(), 200, 0.02))


def test_one_slow_answer_does_not_make_a_quick_network_slow() -> None:
    router = OffloadRouter()
    play(router, 50, 0.02)
    router.record_round_trip(0.1)
    assert not router.is_slow(0.05)


@given(st.lists(st.floats(0, 10), max_size=40), st.floats(0.001, 1))
def test_a_network_is_slow_only_after_a_slower_round_trip(round_trips: list[float], seconds: float) -> None:
    router = OffloadRouter()
    for one in round_trips:
        router.record_round_trip(one)
    if router.is_slow(seconds):
        assert len(round_trips) >= 5 and max(round_trips) > seconds
    elif len(round_trips) >= 5:
        assert min(round_trips) <= seconds * (1 + 1e-9)
