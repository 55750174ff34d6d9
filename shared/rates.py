"""Rates of errors, and how far they may be from what was seen."""

from __future__ import annotations

import math


def most(errors: float, of: float, confidence: float) -> float:
    """The largest rate of errors with which so few of so many are not yet unlikely: C. Clopper and E. Pearson's upper
    bound (Biometrika 26, 1934). Numbers need not be whole where rows weigh unequally."""
    low, high = errors / of, 1.0
    while high - low > 1e-6:
        rate = (low + high) / 2
        low, high = (rate, high) if _at_most(errors, of, rate) > 1.0 - confidence else (low, rate)
    return high


def _at_most(errors: float, of: float, rate: float) -> float:
    """The probability of so many errors or fewer."""
    return sum(
        math.exp(
            math.lgamma(of + 1)
            - math.lgamma(k + 1)
            - math.lgamma(of - k + 1)
            + k * math.log(max(rate, 1e-300))
            + (of - k) * math.log1p(-min(rate, 1 - 1e-12))
        )
        for k in range(math.floor(errors) + 1)
    )
