"""Detects two MQTT clients with one id. A broker closes the older connection, so that they disconnect each other.

Some brokers give the reason (MQTT 5 code 0x8E, session taken over), others only close the connection.
"""

from __future__ import annotations

from collections.abc import Callable

from cachenet.shared.transport.backoff import Backoff

#: Consecutive closed connections that are a conflict. A diagnostic command or a quick restart causes one or two.
_CONFLICT = 3
#: Longest connection that may have been taken over without a reason from the broker, seconds.
_SOON_S = 10.0
#: First and longest delay before the next connection, seconds.
_DELAY_S = (0.5, 120.0)
#: Jitter of the delay, so that the two clients do not connect at the same time.
_JITTER = 0.5
#: A connection that lasts this long, plus twice the last delay, ends a conflict, seconds.
_STABLE_S = 30.0


class TakeoverMonitor:
    """Follows one client's connections, and decides whether another client has the same id."""

    def __init__(self, clock: Callable[[], float], backoff: Backoff | None = None) -> None:
        """``clock``: source of monotonic times, seconds; ``backoff``: delays between connections."""
        self._clock = clock
        self._backoff = backoff or Backoff(*_DELAY_S, jitter=_JITTER)
        self._accepted_at: float | None = None
        self._delay = 0.0

    def accepted(self) -> None:
        """Record that the broker has accepted a connection."""
        self._accepted_at = self._clock()

    def ended(self, taken_over: bool) -> float | None:
        """Record that the broker has closed an accepted connection.

        Args:
            taken_over: Whether the broker gave this as the reason.

        Returns:
            Delay before the next connection, seconds; None if a takeover is unlikely.
        """
        accepted_at, self._accepted_at = self._accepted_at, None
        if accepted_at is None:
            return None
        lasted = self._clock() - accepted_at
        if lasted >= self._stable_s:
            self._backoff.reset()
        if not taken_over and lasted >= _SOON_S:
            return None
        self._delay = self._backoff.failed()
        return self._delay

    @property
    def conflict(self) -> bool:
        """Whether another client with this id is probably connected to the broker."""
        if self._accepted_at is not None and self._clock() - self._accepted_at >= self._stable_s:
            self._backoff.reset()
        return self._backoff.failures >= _CONFLICT

    @property
    def _stable_s(self) -> float:
        return _STABLE_S + 2 * self._delay
