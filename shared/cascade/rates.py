"""Rates of errors, and how far they may be from what was seen."""

from __future__ import annotations

import math


def clopper_pearson_upper(errors: float, trials: float, confidence: float) -> float:
    """One-sided upper bound on a rate: the largest at which so few errors are not yet unlikely (C. Clopper and
    E. Pearson, Biometrika 26, 1934). Numbers need not be whole where observations weigh unequally.

    >>> round(clopper_pearson_upper(0, 20, 0.95), 3)
    0.139
    """
    low, high = errors / trials, 1.0
    while high - low > 1e-6:
        rate = (low + high) / 2
        low, high = (rate, high) if _at_most(errors, trials, rate) > 1.0 - confidence else (low, rate)
    return high


def clopper_pearson(errors: float, trials: float, confidence: float) -> tuple[float, float]:
    """Two-sided interval of a rate, exact where the numbers are whole."""
    one_sided = (1.0 + confidence) / 2
    low = 1.0 - clopper_pearson_upper(trials - errors, trials, one_sided) if errors > 0 else 0.0
    return low, clopper_pearson_upper(errors, trials, one_sided)


def _at_most(errors: float, trials: float, rate: float) -> float:
    """The probability of so many errors or fewer."""
    return sum(
        math.exp(
            math.lgamma(trials + 1)
            - math.lgamma(k + 1)
            - math.lgamma(trials - k + 1)
            + k * math.log(max(rate, 1e-300))
            + (trials - k) * math.log1p(-min(rate, 1 - 1e-12))
        )
        for k in range(math.floor(errors) + 1)
    )
