"""Which frames the outbox stores, drops and sends next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachenet.edge_agent.outbox.backlog import (
    MAX_AGE_S,
    MAX_REFUSALS,
    MISS_EVERY_S,
    REPLY_S,
    SEND_EVERY_S,
    Backlog,
    Entry,
)

_BOUND = 100

#: A frame of some size; time that passes; a frame that is sent; the result of a request; a new server.
_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.integers(1, 120)),
        st.tuples(st.just("wait"), st.sampled_from([0.1, SEND_EVERY_S, REPLY_S, MAX_AGE_S / 3, 2 * MAX_AGE_S])),
        st.tuples(st.just("send"), st.just(0)),
        st.tuples(st.just("reply"), st.sampled_from(["answered", "later", "refused"])),
        st.tuples(st.just("server"), st.just(0)),
    ),
    max_size=80,
)


class Device:
    """A backlog, a clock, and what a model of it says that is stored."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.backlog = Backlog(lambda: self.now, _BOUND)
        self.stored: dict[bytes, Entry] = {}
        self.asked: list[bytes] = []
        self.results: list[bytes] = []
        self._number = 0

    def store(self, size: int) -> bytes:
        """Store a frame of ``size`` bytes. Its id."""
        self._number += 1
        entry = Entry(self._number.to_bytes(2, "big"), size, self.now)
        dropped = self.backlog.make_room(size)
        if dropped is not None:
            self.oldest_went(dropped)
            self.backlog.add(entry)
            self.stored[entry.id] = entry
        return entry.id

    def oldest_went(self, dropped: list[bytes]) -> None:
        assert dropped == list(self.stored)[: len(dropped)]
        for frame in dropped:
            del self.stored[frame]

    def send(self) -> bytes | None:
        """Send what is due, if anything is."""
        if (frame := self.backlog.next()) is not None:
            self.backlog.asked(frame)
            self.asked.append(frame)
        return frame

    def reply(self, result: str, frame: bytes | None = None) -> None:
        """The result of the last request, or of one for ``frame``."""
        if frame is None:
            frame = self.asked[-1] if self.asked else b""
        if self.backlog.answered(frame, result):  # type: ignore[arg-type]
            del self.stored[frame]
            self.results.append(frame)


@given(_EVENTS)
def test_bounds_hold_the_oldest_goes_first_and_every_frame_is_counted_once(
    events: list[tuple[str, object]],
) -> None:
    device, attempts = Device(), 0
    for event, value in events:
        if event == "store":
            attempts += 1
            device.store(value)  # type: ignore[arg-type]
        elif event == "wait":
            device.now += value  # type: ignore[operator]
        elif event == "send":
            assert device.send() in (None, next(iter(device.stored), None))
        elif event == "reply":
            device.reply(value)  # type: ignore[arg-type]
        else:
            device.backlog.server_began()
        device.oldest_went(device.backlog.expire())
        counts = device.backlog.counts()
        assert counts.bytes == sum(entry.size for entry in device.stored.values()) <= _BOUND
        assert counts.waiting == len(device.stored)
        assert all(device.now - entry.stored <= MAX_AGE_S for entry in device.stored.values())
        assert attempts == counts.sent + sum(counts.dropped.values()) + counts.waiting
    assert len(device.results) == len(set(device.results)), "each frame has one result"


@given(st.integers(1, 5), st.lists(st.sampled_from(["answered", "later", "silence", "server"]), max_size=12))
def test_every_frame_is_sent_until_a_server_has_answered_it(count: int, results: list[str]) -> None:
    device = Device()
    frames = [device.store(10) for _ in range(count)]
    for result in [*results, *["answered"] * count]:
        device.now += 2 * REPLY_S + 300  # longer than any pause
        if device.send() is None:
            break
        if result == "server":
            device.backlog.server_began()
        elif result != "silence":
            device.reply(result)
    assert device.results == frames
    assert (device.backlog.counts().sent, device.backlog.counts().waiting) == (count, 0)


def test_one_frame_is_under_way_at_a_time_and_the_next_one_waits_a_moment() -> None:
    device = Device()
    first, second = device.store(10), device.store(10)
    assert device.send() == first
    assert device.send() is None
    device.reply("answered")
    assert device.send() is None
    device.now += SEND_EVERY_S
    assert device.send() == second


def test_a_frame_without_a_reply_is_sent_again_later_or_when_a_server_connects() -> None:
    device = Device()
    frame = device.store(10)
    assert device.send() == frame
    device.now += REPLY_S - 1
    assert device.send() is None
    device.now += 1
    assert device.send() == frame
    device.backlog.server_began()
    assert device.send() == frame


def test_a_frame_that_is_dropped_while_it_is_under_way_does_not_hold_up_the_next() -> None:
    device = Device()
    device.store(60)
    device.send()
    second = device.store(60)
    device.now += SEND_EVERY_S
    assert device.send() == second


def test_a_late_answer_to_an_earlier_request_counts_once() -> None:
    device = Device()
    frame = device.store(10)
    device.send()
    device.backlog.server_began()
    device.send()
    device.reply("answered", frame)
    device.reply("answered", frame)
    assert device.backlog.counts().sent == 1


def test_a_frame_that_every_server_refuses_does_not_stay_first_for_ever() -> None:
    device = Device()
    bad, good = device.store(10), device.store(10)
    pauses = []
    for _ in range(MAX_REFUSALS):
        begun = device.now
        while device.send() is None:
            device.now += 0.5
        pauses.append(device.now - begun)
        assert device.asked[-1] == bad
        device.reply("later")
    assert pauses[1] < pauses[5] < pauses[-1], "a busy server is asked less and less often"
    assert device.backlog.counts().dropped["error"] == 1
    device.backlog.server_began()
    assert device.send() == good
    device.reply("refused")
    assert device.backlog.counts().dropped["error"] == 2


def test_misses_of_one_camera_are_stored_once_a_second() -> None:
    device = Device()
    assert [device.backlog.admits_miss(camera) for camera in ("a", "a", "b")] == [True, False, True]
    device.now += MISS_EVERY_S
    assert device.backlog.admits_miss("a")
    assert device.backlog.counts().dropped["rate"] == 1


def test_a_damaged_file_takes_its_frames_along() -> None:
    device = Device()
    device.store(10)
    device.store(20)
    device.backlog.forget(renamed=True)
    counts = device.backlog.counts()
    assert (counts.damaged, counts.dropped["error"], counts.waiting, counts.bytes) == (1, 2, 0, 0)
