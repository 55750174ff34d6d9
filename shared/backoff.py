"""Exponential back-off: how long to wait before something that has failed is tried again."""

from __future__ import annotations


class Backoff:
    """Doubles the wait after every failure, from ``first`` to ``last`` seconds.

    Example:
        >>> backoff = Backoff(1.0, 5.0)
        >>> [backoff.failed() for _ in range(4)], backoff.failures
        ([1.0, 2.0, 4.0, 5.0], 4)
    """

    def __init__(self, first: float, last: float) -> None:
        self.failures = 0
        self._first, self._last = first, last

    def failed(self) -> float:
        """Count a failure; seconds to wait until the next try."""
        self.failures += 1
        return min(self._last, self._first * 2.0 ** min(self.failures - 1, 60))
