"""Anytime-valid tests and bounds for the mean of a sequence in [0, 1], by betting.

I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", arXiv 2010.09686.
"""

from __future__ import annotations

import math

import numpy as np

#: Confidence of the upper bound.
_CONFIDENCE = 0.95
#: Largest share of its wealth that a bet can lose.
_MAX_LOSS = 0.75


class AnytimeUpperBound:
    """Upper bound on the mean of a sequence in [0, 1], valid at every time with 95 % confidence.

    For each mean of a grid, a bettor with a wealth of 1 bets that the true mean is lower. The bound is the least mean
    whose bettor has had a wealth of 20 at some time.

    Example:
        >>> bound = AnytimeUpperBound()
        >>> for _ in range(100):
        ...     bound.add(0.0)
        >>> 0.0 < bound.value < 0.1
        True
    """

    _means = np.geomspace(0.001, 0.999, 100)

    def __init__(self) -> None:
        self._log_wealth = np.zeros(len(self._means))
        self._max_log_wealth = np.zeros(len(self._means))
        self._count, self._sum, self._squares = 1.0, 0.5, 0.25 + 0.25  # one pseudo-observation of 0.5

    @property
    def value(self) -> float:
        """The bound; 1 until a bettor has had a wealth of 20."""
        rejected = self._max_log_wealth >= math.log(1.0 / (1.0 - _CONFIDENCE))
        return float(self._means[rejected].min()) if rejected.any() else 1.0

    def add(self, share: float) -> None:
        """Add an observation, 0 to 1."""
        mean = self._sum / self._count
        variance = max(self._squares / self._count - mean * mean, 1e-4)
        # Bet with the largest growth rate on the observations so far, to second order ("aGRAPA").
        edge = self._means - mean
        bets = np.clip(edge / (variance + edge * edge), 0.0, _MAX_LOSS / (1.0 - self._means))
        self._log_wealth += np.log1p(bets * (self._means - share))
        np.maximum(self._max_log_wealth, self._log_wealth, out=self._max_log_wealth)
        self._count += 1.0
        self._sum += share
        self._squares += share * share


class EDetector:
    """Detects that the mean of a sequence in [0, 1] has risen above ``allowed``.

    J. Shin, A. Ramdas and A. Rinaldo, "E-detectors", arXiv 2203.03532.

    Attributes:
        e_value: The e-detector; under the null it exceeds 100 at most once in 100 observations on average.

    Example:
        >>> detector = EDetector(allowed=0.04)
        >>> for _ in range(10):
        ...     detector.add(1.0)
        >>> detector.e_value > 100.0
        True
    """

    def __init__(self, allowed: float) -> None:
        """``allowed``: largest mean under the null hypothesis, over 0 and under 1."""
        self._allowed = allowed
        self._bets = _MAX_LOSS / allowed * np.array([0.02, 0.1, 0.5])
        self._wealth = np.ones(len(self._bets))
        self.e_value = 1.0

    def add(self, share: float) -> None:
        """Add an observation, 0 to 1."""
        self._wealth = np.maximum(self._wealth, 1.0) * (1.0 + self._bets * (share - self._allowed))
        self.e_value = float(self._wealth.mean())

    def reset(self) -> None:
        """Discard all observations."""
        self._wealth[:] = self.e_value = 1.0


class TwoSampleTest:
    """Tests whether the mean of one sequence in [0, 1] is above that of another, and may be looked at at any time.

    R. Turner, A. Ly and P. Grunwald, "Generic E-variables for exact sequential k-sample tests that allow for optional
    stopping", arXiv 2106.02693. Observations come in blocks of both sequences. The alternatives are odds ratios; the
    rate of both together is that of the blocks before.

    Attributes:
        e_value: While the first mean is at most the second, it ever exceeds ``e`` with a probability of at most
            ``1 / e``.

    Example:
        >>> test = TwoSampleTest()
        >>> for _ in range(10):
        ...     test.add(10, 5.0, 90, 2.0)
        >>> test.e_value > 100.0
        True
    """

    _odds_ratios = np.array([2.0, 5.0, 25.0])

    def __init__(self) -> None:
        self._log_e = np.zeros(len(self._odds_ratios))
        self._count, self._sum = 1.0, 0.01  # one pseudo-observation: errors are rare
        self.e_value = 1.0

    def add(self, count: int, total: float, other_count: int, other_total: float) -> None:
        """Add a block: ``count`` observations of the first sequence with the sum ``total``, and those of the other."""
        if count and other_count:
            rate = min(max(self._sum / self._count, 1e-6), 1.0 - 1e-6)
            odds = self._odds_ratios * rate / (1.0 - rate)
            first = odds / (1.0 + odds)
            null = (count * first + other_count * rate) / (count + other_count)
            self._log_e += total * np.log(first / null) + (count - total) * np.log((1.0 - first) / (1.0 - null))
            self._log_e += other_total * np.log(rate / null)
            self._log_e += (other_count - other_total) * np.log((1.0 - rate) / (1.0 - null))
            self.e_value = float(np.exp(np.minimum(self._log_e, 600.0)).mean())
        self._count += count + other_count
        self._sum += total + other_total
