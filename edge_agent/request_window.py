"""How many requests may be under way at a time, so that none waits in a queue of the link or of the server.

Pure: times come from outside.
"""

from __future__ import annotations

from collections import deque

#: Largest window, requests: 30 frames a second with a round trip of 270 ms.
_LARGEST = 8.0
#: Requests that may wait in a queue, on average. Under one, so that a slow link carries one request at a time.
_QUEUED = 0.5
#: Share of the way to the new window at each reply.
_STEP = 0.5
#: Number of replies whose shortest round trip counts as that of an empty link.
_REPLIES = 32


class RequestWindow:
    """A congestion window from round trips, after FAST TCP (D. Wei et al., IEEE/ACM Trans. Networking 14(6), 2006).

    Round trips longer than the shortest recent one mean that requests wait in a queue. A window limits what is under
    way to what the empty link and server hold, so replies come early on a slow link and often on a fast one.

    Example:
        >>> window = RequestWindow()
        >>> window.allows(under_way=0), window.allows(under_way=1)
        (True, False)
        >>> for _ in range(4):
        ...     window.replied(under_way=1, round_trip_s=0.1)
        >>> window.allows(under_way=1)
        True
    """

    def __init__(self) -> None:
        self._size = 1.0
        self._round_trips: deque[float] = deque(maxlen=_REPLIES)

    def allows(self, under_way: int) -> bool:
        """Whether another request may be sent while ``under_way`` have no reply."""
        return under_way + 1 <= self._size

    def replied(self, under_way: int, round_trip_s: float) -> None:
        """Record an answer that took ``round_trip_s`` seconds; ``under_way`` includes its request."""
        self._round_trips.append(max(round_trip_s, 1e-4))
        target = self._size * min(self._round_trips) / self._round_trips[-1] + _QUEUED
        # Requests that are rarer than the window allows show nothing about a larger one.
        if target < self._size or not self.allows(under_way):
            self._size = min(_LARGEST, max(1.0, self._size + _STEP * (target - self._size)))
