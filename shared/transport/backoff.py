"""Exponential back-off with jitter: the delay before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Delays that double from ``first_s`` to ``longest_s`` seconds with each consecutive failure.

    Attributes:
        failures: Consecutive failures.

    Example:
        >>> backoff = Backoff(0.5, 4.0, jitter=0.0)
        >>> [backoff.failed() for _ in range(5)]
        [0.5, 1.0, 2.0, 4.0, 4.0]
    """

    def __init__(
        self,
        first_s: float,
        longest_s: float,
        jitter: float = 0.2,
        uniform: Callable[[float, float], float] | None = None,
    ) -> None:
        """Configure the delays.

        Args:
            first_s: First delay, seconds.
            longest_s: Longest delay, seconds.
            jitter: Range of the random factor, 1 - jitter to 1 + jitter, which spreads the attempts of many clients.
            uniform: Source of random numbers between two bounds (default: ``random.uniform``).
        """
        self._first, self._longest, self._jitter = first_s, longest_s, jitter
        self._uniform = uniform or random.uniform
        self.failures = 0

    def failed(self) -> float:
        """Record a failure; return the delay before the next attempt, seconds."""
        # The exponent is bounded against overflow.
        delay = min(self._longest, self._first * 2.0 ** min(self.failures, 64))
        self.failures += 1
        return delay * self._uniform(1 - self._jitter, 1 + self._jitter)

    def reset(self) -> None:
        """Record a success: the next delay is the first one again."""
        self.failures = 0
