"""A mean over seeds with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from models.gates import student


def interval(values: Sequence[float]) -> dict[str, object]:
    """``mean`` and Student's ``interval`` around it; of one value the interval is that value."""
    mean, half = float(np.mean(values)), 0.0
    if len(values) > 1:
        half = student(0.975, len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return {"mean": round(mean, 5), "interval": [round(mean - half, 5), round(mean + half, 5)]}


def intervals(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, object]]:
    """The same of every figure of ``rows``, one of each seed."""
    return {name: interval([row[name] for row in rows]) for name in rows[0]}
