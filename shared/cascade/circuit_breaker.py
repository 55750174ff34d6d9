"""A circuit breaker: after repeated failures the cloud is left alone, and asked again now and then.

M. Nygard, "Release It!", 2007, chapter 5. While it is open no frame waits; one probe at growing intervals finds out
whether the cloud is back.
"""

from __future__ import annotations


class CircuitBreaker:
    """Closed until ``tolerance`` failures in a row; then open for ``pause`` seconds, doubling up to ``longest``.

    >>> breaker = CircuitBreaker(tolerance=1, pause=0.5)
    >>> breaker.failed(now=0.0)
    >>> breaker.allows(now=0.1), breaker.allows(now=0.6)
    (False, True)
    """

    def __init__(self, tolerance: int = 3, pause: float = 0.5, longest: float = 8.0) -> None:
        self._tolerance, self._pause, self._longest = tolerance, pause, longest
        self._failures = 0
        self._until = 0.0

    @property
    def open(self) -> bool:
        """Whether the last ``tolerance`` questions failed."""
        return self._failures >= self._tolerance

    def allows(self, now: float) -> bool:
        """Whether the cloud may be asked: always while closed, as a probe when an open period has passed."""
        return not self.open or now >= self._until

    def succeeded(self) -> None:
        """The cloud has answered."""
        self._failures = 0

    def failed(self, now: float) -> None:
        """The cloud has not answered. ``now``: seconds."""
        self._failures += 1
        if self.open:
            doublings = min(self._failures - self._tolerance, 32)  # more no float can hold, in a night's outage
            self._until = now + min(self._longest, self._pause * 2.0**doublings)
