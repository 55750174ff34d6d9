"""Where the full model is asked: over the network, or on the device itself if it is there.

The network is asked until it is known to be the slower way. It is then tried again now and then, ever more seldom while
it stays slower, for a link may get better.
"""

from __future__ import annotations

#: Weight of the latest round trip in their running mean.
_LATEST = 0.2
#: Questions answered on the device before the network is tried again: at first, and at most.
_FIRST_BACKOFF, _LONGEST_BACKOFF = 32, 1024
#: Round trips that must be known before the network is taken for slow.
_KNOWN = 5


class OffloadRouter:
    """What asking over the network has taken on this stream."""

    def __init__(self) -> None:
        self._round_trip_s = 0.0
        self._known = self._skipped = 0
        self._backoff = _FIRST_BACKOFF
        self._trying = False

    def is_slow(self, seconds: float) -> bool:
        """Whether an answer over the network takes longer than ``seconds``, as far as is known."""
        return self._known >= _KNOWN and self._round_trip_s > seconds

    def on_device(self, seconds: float) -> bool:
        """Whether to run the full model on the device this time, which takes ``seconds``."""
        if not self.is_slow(seconds):
            self._skipped, self._backoff = 0, _FIRST_BACKOFF
            return False
        self._skipped += 1
        if self._skipped < self._backoff:
            return True
        self._skipped, self._backoff = 0, min(2 * self._backoff, _LONGEST_BACKOFF)
        self._trying = True
        return False

    def record_round_trip(self, seconds: float) -> None:
        """An answer over the network took ``seconds``, or did not come within them."""
        self._known += 1
        # What was known of a link before it was left alone is old when it is tried again.
        weight = 1.0 if self._trying else max(_LATEST, 1.0 / self._known)
        self._round_trip_s += weight * (seconds - self._round_trip_s)
        self._trying = False
