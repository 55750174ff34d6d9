"""Two clients of one id: a broker ends the older connection when the newer comes, so that each ends the other's.

Some brokers give the reason (MQTT 5's 0x8E, session taken over), others just close. Pure: the clock comes from outside.
"""

from __future__ import annotations

from collections.abc import Callable

from cachenet.shared.transport.backoff import Backoff

#: Ended connections in a row that make a conflict. A doctor or a quick restart causes one or two.
_CONFLICT = 3
#: A connection that ends so soon after it was accepted may have been taken over, seconds.
_SOON_S = 10.0
#: Delay before the next connection: the first and the longest, seconds; with jitter, or both would come back together.
_DELAY_S, _JITTER = (0.5, 120.0), 0.5
#: A connection that lasts this long, and twice the last delay, ends a conflict, seconds.
_STABLE_S = 30.0


class TakeoverMonitor:
    """Told of one client's connections, says whether another client has its id and how long to wait."""

    def __init__(self, clock: Callable[[], float], backoff: Backoff | None = None) -> None:
        """``clock``: seconds."""
        self._clock = clock
        self._backoff = backoff or Backoff(*_DELAY_S, jitter=_JITTER)
        self._since: float | None = None
        self._delay = 0.0

    def accepted(self) -> None:
        """The broker has accepted a connection."""
        self._since = self._clock()

    def ended(self, taken_over: bool) -> float | None:
        """An accepted connection was ended by the other side; ``taken_over``: the broker has said that this was why.
        Seconds to wait before the next; None if nothing speaks for a takeover."""
        since, self._since = self._since, None
        if since is None:
            return None
        lasted = self._clock() - since
        if lasted >= self._stable_s:
            self._backoff.reset()
        if not taken_over and lasted >= _SOON_S:
            return None
        self._delay = self._backoff.failed()
        return self._delay

    @property
    def conflict(self) -> bool:
        """Whether another client with this id is connected to the broker, as far as can be known."""
        if self._since is not None and self._clock() - self._since >= self._stable_s:
            self._backoff.reset()
        return self._backoff.failures >= _CONFLICT

    @property
    def _stable_s(self) -> float:
        return _STABLE_S + 2 * self._delay
