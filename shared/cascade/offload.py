"""Offload decision: whether to run the full model on the server, or on the device if it is there.

The server is used until its round trip is known to be slower. After that it is tried again with exponential back-off.
"""

from __future__ import annotations

#: Weight of the latest round trip in the running mean.
_LATEST_WEIGHT = 0.2
#: While the server is slow, it is tried in one of this many calls at first ...
_MIN_BACKOFF = 32
#: ... twice as many after each trial, up to one of this many calls.
_MAX_BACKOFF = 1024
#: Round trips that must be known before the server counts as slow.
_MIN_ROUND_TRIPS = 5


class OffloadRouter:
    """Running mean of the server's round trip on one stream, and the back-off of its trials."""

    def __init__(self) -> None:
        self._round_trip_s = 0.0
        self._round_trips = self._skipped = 0
        self._backoff = _MIN_BACKOFF
        self._trying = False

    def is_slow(self, seconds: float) -> bool:
        """Whether the server is known to take longer than ``seconds``."""
        return self._round_trips >= _MIN_ROUND_TRIPS and self._round_trip_s > seconds

    def use_device(self, seconds: float) -> bool:
        """Whether to run the full model on the device for this miss; call once a miss. A run takes ``seconds``."""
        if not self.is_slow(seconds):
            self._skipped, self._backoff = 0, _MIN_BACKOFF
            return False
        self._skipped += 1
        if self._skipped < self._backoff:
            return True
        self._skipped, self._backoff = 0, min(2 * self._backoff, _MAX_BACKOFF)
        self._trying = True
        return False

    def record_round_trip(self, seconds: float) -> None:
        """Record the round trip of a request to the server; the deadline for a frame without a reply in time."""
        self._round_trips += 1
        # A trial replaces the mean, because the earlier round trips are old.
        weight = 1.0 if self._trying else max(_LATEST_WEIGHT, 1.0 / self._round_trips)
        self._round_trip_s += weight * (seconds - self._round_trip_s)
        self._trying = False
