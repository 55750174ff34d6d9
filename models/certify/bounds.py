"""Confidence bounds on the mean of values in 0..1, for certificates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

#: Stakes of the bets against a mean: the share of the wealth that a value of 1 loses. A stake of 1 gives the tightest
#: bound for small values; the others survive a value of 1.
_STAKES = np.array([1.0, 0.6, 0.2])
#: Shares of the initial wealth, one for each stake.
_WEIGHTS = np.array([0.8, 0.12, 0.08])


def mean_upper(shares: Sequence[float], confidence: float) -> float:
    """One-sided upper confidence bound on the mean of ``shares``, exact for any number of them.

    The bound is the smallest mean against which betting has multiplied the wealth by ``1 / (1 - confidence)``
    (I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", arXiv 2010.09686,
    section 4). The expectation of each share may depend on the shares before.

    Args:
        shares: Values in 0..1.
        confidence: Of the bound, in 0..1.

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
    """Number of shares like these with which ``mean_upper`` is ``at_most``; 0 if no number suffices.

    Without any shares, the number is for shares of zero.
    """
    values = np.asarray(shares if len(shares) else [0.0], np.float64)
    growths = _growths(values, at_most).mean(1)
    needed = -math.log(1.0 - confidence)
    return min(
        (
            math.ceil((needed - math.log(weight)) / float(growth))
            for weight, growth in zip(_WEIGHTS, growths, strict=True)
            if growth > 0
        ),
        default=0,
    )


def _growths(values: npt.NDArray[np.float64], mean: float) -> npt.NDArray[np.float64]:
    """Growth of the log wealth with each value, for each bet ``(bets, n)``."""
    bets = _STAKES[:, None] / (1.0 - mean)
    with np.errstate(divide="ignore"):
        growths: npt.NDArray[np.float64] = np.log1p(bets * (mean - values[None]))
    return growths


def _log_wealth(growths: npt.NDArray[np.float64]) -> float:
    """Log wealth of all bets together, from the log growth of each ``(bets,)``."""
    return float(np.logaddexp.reduce(np.log(_WEIGHTS) + growths))
