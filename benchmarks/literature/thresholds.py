"""Thresholds on the risk of local answers: as many hits as a share of false hits allows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def threshold(risk: npt.NDArray[np.float64], wrong: npt.NDArray[np.bool_], limit: float) -> float:
    """The largest risk up to which all answers together have a share of false hits of at most ``limit``.

    Args:
        risk: Risk of each local answer ``(n,)``.
        wrong: Whether it is not the full model's label ``(n,)``.
        limit: Share of all ``n`` frames.

    Returns:
        The threshold; negative if no answer is allowed.

    Example:
        >>> threshold(np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, True, False, True]), 0.25)
        0.3
    """
    order = np.argsort(risk, kind="stable")
    false = np.cumsum(wrong[order]) / len(risk)
    ordered = risk[order]
    last = np.append(ordered[1:] > ordered[:-1], True)  # equal risks are answered together
    allowed = np.flatnonzero(last & (false <= limit))
    return float(ordered[allowed[-1]]) if len(allowed) else -1.0
