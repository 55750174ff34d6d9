"""Which frames the outbox stores, which it drops and which it sends next. Pure: no input or output.

The clock comes from outside, and the caller locks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from cachenet.shared.transport.backoff import Backoff

#: Longest time that a frame is stored, seconds: a week. Fine-tuning learns from recent frames.
MAX_AGE_S = 7 * 86_400.0
#: Least time between two stored misses of a camera, seconds. Misses come in runs of nearly equal pictures.
MISS_EVERY_S = 1.0
#: Least time between the answer to a frame and the next frame, seconds: two pictures a second at most.
SEND_EVERY_S = 0.5
#: Time that a server has for an answer, seconds; the longest that protocol version 2 lets a request wait is 600.
REPLY_S = 60.0
#: First and longest pause after a refusal as ``busy`` or ``expired``, seconds.
_BUSY_S = (1.0, 300.0)
#: Refusals of these kinds after which a frame is dropped, so that one that no server can answer does not stay first.
#: With the pauses they take an hour and a half.
MAX_REFUSALS = 24

#: ``age``, ``bytes``: over a bound. ``error``: the disk or a server refused it, or the disk was too slow.
#: ``rate``: a miss within ``MISS_EVERY_S`` of another.
Reason = Literal["age", "bytes", "error", "rate"]
#: Result of a request: ``answered``; ``later``: refused for now; ``refused``: for good.
Result = Literal["answered", "later", "refused"]


class Counts(msgspec.Struct):
    """Counts since the start.

    Attributes:
        stored: Frames written to the disk.
        sent: Stored frames, those of earlier runs too, that a server has answered.
        dropped: Frames that no server has answered, by reason.
        damaged: Files that could not be read and were renamed, with all their frames.
        waiting: Frames that are stored now.
        bytes: What these count together, bytes.
    """

    stored: int = 0
    sent: int = 0
    dropped: dict[Reason, int] = msgspec.field(default_factory=lambda: {"age": 0, "bytes": 0, "error": 0, "rate": 0})
    damaged: int = 0
    waiting: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored frame.

    Attributes:
        id: Identifies the frame to servers, 16 bytes.
        size: What it counts of the bound, bytes.
        stored: Time of storing, seconds on the clock of the backlog.
    """

    id: bytes
    size: int
    stored: float


class Backlog:
    """The stored frames, oldest first, within a bound on their bytes and age. One is sent at a time.

    Example:
        >>> backlog = Backlog(lambda: 0.0, max_bytes=10)
        >>> backlog.add(Entry(b"a", 6, 0.0))
        >>> backlog.make_room(6)
        [b'a']
    """

    def __init__(self, clock: Callable[[], float], max_bytes: int) -> None:
        """Create an empty backlog. ``clock``: returns the time, seconds; it never goes back."""
        self._clock, self._max_bytes = clock, max_bytes
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._counts = Counts()
        self._last_miss: dict[str, float] = {}
        #: Id of the frame whose answer is awaited; None for none. It is sent again after ``_until``.
        self._asked: bytes | None = None
        self._until = clock()
        self._backoff = Backoff(*_BUSY_S)
        self._refusals = 0  # of the oldest frame

    def counts(self) -> Counts:
        """A copy of the counts."""
        own = self._counts
        return msgspec.structs.replace(own, dropped=dict(own.dropped), waiting=len(self._entries))

    def refuse(self, reason: Reason) -> None:
        """Count a frame that is not stored."""
        self._counts.dropped[reason] += 1

    def drop(self, reason: Reason, ids: Iterable[bytes]) -> None:
        """Drop stored frames."""
        self._counts.dropped[reason] += sum(self._remove(one) for one in ids)

    def admits_miss(self, camera: str) -> bool:
        """Whether a miss of this camera may be stored now. One that may not is counted."""
        now = self._clock()
        if now < self._last_miss.get(camera, -MISS_EVERY_S) + MISS_EVERY_S:
            self.refuse("rate")
            return False
        self._last_miss[camera] = now
        return True

    def holds(self, frame: bytes) -> bool:
        """Whether a frame is stored."""
        return frame in self._entries

    def make_room(self, size: int) -> list[bytes] | None:
        """Drop the oldest frames until one of ``size`` bytes fits; their ids. None if it can never fit."""
        if size > self._max_bytes:
            self.refuse("bytes")
            return None
        return self._drop_while("bytes", lambda _: self._counts.bytes + size > self._max_bytes)

    def expire(self) -> list[bytes]:
        """Drop the frames over the bound on the age; their ids."""
        oldest = self._clock() - MAX_AGE_S
        return self._drop_while("age", lambda entry: entry.stored < oldest)

    def add(self, entry: Entry, restored: bool = False) -> None:
        """Add a stored frame, for which there is room. ``restored``: whether it is of an earlier run."""
        self._entries[entry.id] = entry
        self._counts.bytes += entry.size
        self._counts.stored += not restored

    def forget(self, renamed: bool) -> None:
        """Drop all frames: their file is damaged. ``renamed``: whether it was renamed."""
        self._counts.damaged += renamed
        self.drop("error", list(self._entries))

    # Sending.

    def next(self) -> bytes | None:
        """Id of the oldest frame, if a frame may be sent now."""
        return next(iter(self._entries), None) if self._clock() >= self._until else None

    def asked(self, frame: bytes) -> None:
        """Record that a frame was sent."""
        self._asked, self._until = frame, self._clock() + REPLY_S

    def answered(self, frame: bytes, result: Result) -> bool:
        """Record the result of a request. Returns whether the frame is no longer stored."""
        if frame not in self._entries:  # it has had its result, or was dropped
            return False
        if result == "later":
            if frame != self._asked:  # a refusal of an earlier request for the frame
                return False
            self._refusals += 1
            self._asked, self._until = None, self._clock() + self._backoff.failed()
            if self._refusals < MAX_REFUSALS:
                return False
        elif frame == self._asked:
            self._backoff.reset()
        if result == "answered":
            self._counts.sent += self._remove(frame)
        else:
            self.drop("error", (frame,))
        return True

    def server_began(self) -> None:
        """Send at once: a server has connected, or the device has, and no answer to an earlier request will come."""
        self._asked, self._until = None, self._clock()

    def _remove(self, frame: bytes) -> bool:
        if frame not in self._entries:
            return False
        if frame == next(iter(self._entries)):
            self._refusals = 0
        if frame == self._asked:
            self._asked, self._until = None, self._clock() + SEND_EVERY_S
        self._counts.bytes -= self._entries.pop(frame).size
        return True

    def _drop_while(self, reason: Reason, over: Callable[[Entry], bool]) -> list[bytes]:
        dropped: list[bytes] = []
        while self._entries and over(entry := next(iter(self._entries.values()))):
            self.drop(reason, (entry.id,))
            dropped.append(entry.id)
        return dropped
