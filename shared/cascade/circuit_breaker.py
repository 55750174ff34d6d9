"""A circuit breaker for requests to the cloud (M. Nygard, "Release It!", 2007, chapter 5).

After repeated failures it opens: no request is allowed during a pause. After the pause requests are allowed until one
fails. Each failure doubles the pause; a reply closes the breaker.
"""

from __future__ import annotations


class CircuitBreaker:
    """Closed until ``tolerance`` consecutive failures; then pauses of ``pause`` seconds, doubling up to ``longest``.

    Example:
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
        """Whether the last ``tolerance`` requests failed."""
        return self._failures >= self._tolerance

    def allows(self, now: float) -> bool:
        """Whether a request may be sent at ``now``, seconds: while closed, and after each pause."""
        return not self.open or now >= self._until

    def succeeded(self) -> None:
        """Record a reply."""
        self._failures = 0

    def failed(self, now: float) -> None:
        """Record a request without a reply at ``now``, seconds."""
        self._failures += 1
        if self.open:
            doublings = min(self._failures - self._tolerance, 32)  # avoids overflow in a long outage
            self._until = now + min(self._longest, self._pause * 2.0**doublings)
