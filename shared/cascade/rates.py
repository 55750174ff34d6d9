"""Confidence bounds on a binomial rate."""

from __future__ import annotations

import math


def clopper_pearson_upper(errors: float, trials: float, confidence: float) -> float:
    """One-sided upper confidence bound on a binomial rate (C. Clopper and E. Pearson, Biometrika 26, 1934).

    Args:
        errors: Number of errors, 0 to ``trials``; not necessarily whole, for weighted observations.
        trials: Number of trials, over 0.
        confidence: Confidence of the bound, over 0 and under 1.

    Example:
        >>> round(clopper_pearson_upper(0, 20, 0.95), 3)
        0.139
    """
    low, high = errors / trials, 1.0
    while high - low > 1e-6:
        rate = (low + high) / 2
        low, high = (rate, high) if _binomial_cdf(errors, trials, rate) > 1.0 - confidence else (low, rate)
    return high


def clopper_pearson(errors: float, trials: float, confidence: float) -> tuple[float, float]:
    """Two-sided confidence interval of a binomial rate; arguments as for ``clopper_pearson_upper``."""
    one_sided = (1.0 + confidence) / 2
    low = 1.0 - clopper_pearson_upper(trials - errors, trials, one_sided) if errors > 0 else 0.0
    return low, clopper_pearson_upper(errors, trials, one_sided)


def _binomial_cdf(errors: float, trials: float, rate: float) -> float:
    """Probability of at most ``floor(errors)`` errors."""
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
