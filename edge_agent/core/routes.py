"""Routes: where the full model is to be asked, over the network or on the device itself, if it is there.

The network is asked until it is known to be the slower way; then it is asked again now and then, ever more seldom while
it stays slower, for a link may get better.
"""

from __future__ import annotations

#: Weight of the latest wait in their running mean.
_LATEST = 0.2
#: After how many questions that were answered here the network is tried again, and how seldom at the most.
_SOON, _SELDOM = 32, 1024
#: Waits that must be known before the network is taken for slow.
_KNOWN = 5


class Routes:
    """What asking over the network has taken on this stream."""

    def __init__(self) -> None:
        self._wait = 0.0
        self._known = 0
        self._spared = 0
        self._patience = _SOON
        self._trying = False

    def slow(self, seconds: float) -> bool:
        """Whether an answer over the network takes longer than ``seconds``, as far as is known."""
        return self._known >= _KNOWN and self._wait > seconds

    def here(self, seconds: float) -> bool:
        """Whether to run the full model here, which takes ``seconds``, this time."""
        if not self.slow(seconds):
            self._spared, self._patience = 0, _SOON
            return False
        self._spared += 1
        if self._spared < self._patience:
            return True
        self._spared, self._patience = 0, min(2 * self._patience, _SELDOM)
        self._trying = True
        return False

    def waited(self, seconds: float) -> None:
        """An answer took so long to come, or did not come within that time."""
        self._known += 1
        # What was known of a link before it was left alone is old when it is tried again.
        weight = 1.0 if self._trying else max(_LATEST, 1.0 / self._known)
        self._wait += weight * (seconds - self._wait)
        self._trying = False
