"""Recent frames by device: which are sizes, and when a training is due."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachenet.cloud_server.finetune.request_history import MAX_FRAMES, MIN_FRAMES, RETRY_S, RequestHistory
from cachenet.shared.transport.protocol import Answer, Timing
from cachenet.shared.transport.recent_frames import RecentFrame

ANSWER = Answer(bytes(40), "0" * 64, None, Timing(0, 0, 0, 1))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def empty(bound: int = 1 << 20) -> tuple[RequestHistory, Clock]:
    clock = Clock()
    return RequestHistory(clock, bound), clock


def add(history: RequestHistory, count: int = MIN_FRAMES, device: str = "cam", first: int = 0) -> None:
    for number in range(first, first + count):
        history.add(RecentFrame(device, b"%d" % number, ANSWER))


def test_a_device_is_due_as_soon_as_it_has_enough_frames() -> None:
    history, _ = empty()
    add(history, MIN_FRAMES - 1)
    assert history.due() is None
    add(history, 1, first=MIN_FRAMES - 1)
    found = history.due()
    assert found is not None and found.devices == ("cam",)
    assert [int(frame.picture) for frame in found.frames] == list(range(MIN_FRAMES)), "in the order of arrival"


def test_frames_of_other_devices_neither_count_nor_come_along() -> None:
    history, _ = empty()
    for number in range(MIN_FRAMES):
        add(history, 1, "one", number)
        add(history, number % 2, "two", number)
    found = history.due()
    assert found is not None
    assert {frame.device for frame in found.frames} == {"one"} and len(found.frames) == MIN_FRAMES
    assert history.due() is None


def test_an_attempt_is_repeated_after_an_hour_and_as_many_new_frames() -> None:
    history, clock = empty()
    add(history)
    assert history.due() is not None
    add(history)
    assert history.due() is None, "not within the hour"
    clock.now = RETRY_S
    assert history.due() is not None
    add(history, MIN_FRAMES - 1)
    clock.now = 3 * RETRY_S
    assert history.due() is None, "not without enough new frames"
    add(history, 1)
    assert history.due() is not None


def test_of_two_devices_the_one_with_more_new_frames_is_first() -> None:
    history, _ = empty()
    add(history, MIN_FRAMES, "one")
    add(history, MIN_FRAMES + 1, "two")
    devices = [found.devices for _ in range(3) if (found := history.due()) is not None]
    assert devices == [("two",), ("one",)]


def test_a_device_keeps_its_latest_frames() -> None:
    history, _ = empty()
    add(history, MAX_FRAMES + 7)
    found = history.due()
    assert found is not None
    assert [int(frame.picture) for frame in found.frames] == list(range(7, MAX_FRAMES + 7))


def test_a_device_with_large_pictures_does_not_displace_others() -> None:
    history, _ = empty(bound=10_000)
    for number in range(5):
        history.add(RecentFrame("small", bytes([number] * 10), ANSWER))
    for number in range(100):
        history.add(RecentFrame("large", bytes([number] * 2000), ANSWER))
    assert len(history) == 5 + 4


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5000)), max_size=60), st.integers(0, 20_000))
def test_the_history_is_never_over_its_bound(frames: list[tuple[str, int]], bound: int) -> None:
    history, _ = empty(bound)
    for device, size in frames:
        history.add(RecentFrame(device, bytes(size), ANSWER))
    sizes = [len(frame.picture) for own in history._devices.values() for frame in own.frames]
    assert sum(sizes) <= bound
    assert sum(sizes) == history._bytes
    assert all(own.frames for own in history._devices.values())


def test_a_repeated_picture_counts_once() -> None:
    """A frozen camera sends one picture again and again."""
    history, _ = empty()
    for _ in range(3):
        add(history, 1, first=7)
    assert len(history) == 1
    add(history, 2, first=8)
    assert len(history) == 3
