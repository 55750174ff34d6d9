"""Bounds on the mean of shares, for certificates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

#: Bets against a mean: the share of the wealth that a share of 1 would lose, and how the wealth is divided among them.
#: The first alone is the shortest way where shares are small; the others survive a share of 1.
_STAKES, _WEIGHTS = np.array([1.0, 0.6, 0.2]), np.array([0.8, 0.12, 0.08])


def mean_upper(shares: Sequence[float], confidence: float) -> float:
    """One-sided upper bound on the mean of independent ``shares`` in 0..1, exact for any number of them.

    It is the least mean against which betting that the true one is lower has multiplied the wealth by
    ``1 / (1 - confidence)`` (I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting",
    arXiv 2010.09686, section 4). It holds as well where the expectation of each share depends on those before.

    >>> round(mean_upper([0.0] * 20, 0.95), 3)
    0.146
    """
    values = np.asarray(shares, np.float64)
    needed = -math.log(1.0 - confidence)
    low, high = float(values.mean()) if len(values) else 0.0, 1.0
    while high - low > 1e-6:
        mean = (low + high) / 2
        low, high = (low, mean) if _log_wealth(_growths(values, mean).sum(1)) >= needed else (mean, high)
    return high


def shares_needed(shares: Sequence[float], at_most: float, confidence: float) -> int:
    """How many shares like these it takes until ``mean_upper`` is ``at_most``; 0 where no number would do. Without any
    it is told for zeros."""
    values = np.asarray(shares if len(shares) else [0.0], np.float64)
    growths = _growths(values, at_most).mean(1)
    needed = -math.log(1.0 - confidence)
    if not (growths > 0).any():
        return 0
    return min(
        math.ceil((needed - math.log(weight)) / float(growth))
        for weight, growth in zip(_WEIGHTS, growths, strict=True)
        if growth > 0
    )


def _growths(values: npt.NDArray[np.float64], mean: float) -> npt.NDArray[np.float64]:
    """By how much the logarithm of the wealth grows with each share, for each bet ``(bets, n)``."""
    bets = _STAKES[:, None] / (1.0 - mean)
    with np.errstate(divide="ignore"):
        growths: npt.NDArray[np.float64] = np.log1p(bets * (mean - values[None]))
    return growths


def _log_wealth(growths: npt.NDArray[np.float64]) -> float:
    """Logarithm of the wealth of all bets together, by their logarithms ``(bets,)``."""
    return float(np.logaddexp.reduce(np.log(_WEIGHTS) + growths))
