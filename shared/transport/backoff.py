"""Exponential back-off with jitter: how long to wait before the next attempt. Pure: randomness comes from outside."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Delays that double from ``first_s`` to ``longest_s`` seconds with each failure in a row."""

    def __init__(
        self,
        first_s: float,
        longest_s: float,
        jitter: float = 0.2,
        uniform: Callable[[float, float], float] | None = None,
    ) -> None:
        """``jitter``: each delay is multiplied by a random factor in [1 - jitter, 1 + jitter], so that many clients do
        not come back at the same moment. ``uniform(a, b)``: a random number in [a, b]."""
        self._first, self._longest, self._jitter = first_s, longest_s, jitter
        self._uniform = uniform or random.uniform
        #: Failures in a row.
        self.failures = 0

    def failed(self) -> float:
        """Record a failure; seconds to wait before the next attempt."""
        # 2 ** 64 is longer than any bound, and larger powers would overflow.
        delay = min(self._longest, self._first * 2.0 ** min(self.failures, 64))
        self.failures += 1
        return delay * self._uniform(1 - self._jitter, 1 + self._jitter)

    def reset(self) -> None:
        """Record a success: the next delay is the first again."""
        self.failures = 0
