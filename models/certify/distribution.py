"""Fits the distribution of scores on a bundle's footage, for ``shared.cascade.distribution``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.distribution import Distribution, DistributionMonitor, Source, log_sum_exp

#: Frames of footage without which the threshold ``least`` is not fitted.
LEAST_FRAMES = 2000
#: Share of held-out frames that the threshold calls out of distribution.
_FALSE_ALARMS = 0.01
#: Steps of the quantiles.
_STEPS = 100

#: A model that has run on a frame, and its scores ``(classes,)``.
Look = tuple[Source, npt.NDArray[np.float32]]


def fit_quantiles(full: npt.NDArray[np.float32], base: npt.NDArray[np.float32]) -> Distribution:
    """Quantiles of the log-sum-exp on footage; ``least`` is 0.

    Args:
        full, base: Logits of that model ``(n, classes)``, n at least 1.
    """

    def quantiles(logits: npt.NDArray[np.float32]) -> tuple[float, ...]:
        values = np.quantile([log_sum_exp(row) for row in logits], np.linspace(0.0, 1.0, _STEPS + 1))
        return tuple(float(f"{value:.6g}") for value in values)

    return Distribution(quantiles(full), quantiles(base), 0.0)


def fit_least(distribution: Distribution, streams: Iterable[Iterable[Sequence[Look]]]) -> float:
    """The mean rank that one frame in a hundred of held-out streams falls below.

    Args:
        distribution: Its quantiles; ``least`` is not used.
        streams: Their frames in order; for each frame, the model runs of a device.

    Returns:
        The threshold, 0 to 0.5; 0 if the streams have fewer than ``LEAST_FRAMES`` frames together.
    """
    means = []
    start = msgspec.structs.replace(distribution, least=0.5)  # the expected mean of a stream in distribution
    for frames in streams:
        monitor = DistributionMonitor(start)
        for looks in frames:
            for source, logits in looks:
                monitor.update(source, logits)
            means.append(monitor.mean)
    if len(means) < LEAST_FRAMES:
        return 0.0
    return round(min(0.5, float(np.quantile(means, _FALSE_ALARMS))), 4)


def leaves(distribution: Distribution, frames: Iterable[Sequence[Look]]) -> bool:
    """Whether a device's monitor finds any frame of a stream out of distribution. ``frames``: see ``fit_least``."""
    monitor = DistributionMonitor(distribution)
    for looks in frames:
        for source, logits in looks:
            if source == "base":
                monitor.update(source, logits)
        monitor.count()
        if monitor.frames_out:
            return True
        for source, logits in looks:
            if source == "full":  # its reply comes after the decision
                monitor.update(source, logits)
    return False
