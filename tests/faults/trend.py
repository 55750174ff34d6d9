"""The trend of a measure over frames, with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cachenet.models.report.confidence_interval import student


class Trend(NamedTuple):
    """A slope and its 95 % confidence interval, for each frame."""

    slope: float
    low: float
    high: float


def trend(parts: Sequence[Sequence[tuple[float, float]]]) -> Trend:
    """Least squares slope that all parts share; each part has a level of its own.

    Args:
        parts: Frames and measure of each sample, by part of the run. A process that starts anew begins a part.

    Returns:
        The slope; its interval is infinite for fewer than three samples more than parts.
    """
    x = np.concatenate([_centred([frames for frames, _ in part]) for part in parts])
    y = np.concatenate([_centred([value for _, value in part]) for part in parts])
    spread, freedom = float(x @ x), len(x) - len(parts) - 1
    if spread == 0.0:
        return Trend(0.0, -math.inf, math.inf)
    slope = float(x @ y) / spread
    if freedom < 1:
        return Trend(slope, -math.inf, math.inf)
    residuals = y - slope * x
    half = student(0.975, freedom) * math.sqrt(float(residuals @ residuals) / freedom / spread)
    return Trend(slope, slope - half, slope + half)


def _centred(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, float)
    return array - array.mean() if array.size else array
