"""What scores look like on a bundle's footage: the start of ``shared.cascade.distribution``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.distribution import Distribution, DistributionMonitor, Source, energy

#: Frames of footage under which nobody knows how far a stream's mean may fall; and how often it may fall further.
LEAST_FRAMES = 2000
_FALSE_ALARMS = 0.01
#: Steps of the quantiles.
_STEPS = 100

#: Which model has looked at a frame, and its scores ``(classes,)``.
Look = tuple[Source, npt.NDArray[np.float32]]


def fit_quantiles(full: npt.NDArray[np.float32], base: npt.NDArray[np.float32]) -> Distribution:
    """What the scores of footage look like; ``least`` is 0.

    Args:
        full, base: Logits of that model ``(n, classes)``, n at least 1.
    """

    def quantiles(logits: npt.NDArray[np.float32]) -> tuple[float, ...]:
        energies = np.quantile([energy(row) for row in logits], np.linspace(0.0, 1.0, _STEPS + 1))
        return tuple(float(f"{value:.6g}") for value in energies)

    return Distribution(quantiles(full), quantiles(base), 0.0)


def fit_least(distribution: Distribution, streams: Iterable[Iterable[Sequence[Look]]]) -> float:
    """The mean quantile that streams of held-out footage fall under on one frame in a hundred; 0, for nobody knows,
    where they have fewer than ``LEAST_FRAMES`` frames together.

    Args:
        distribution: Its quantiles; ``least`` is not looked at.
        streams: Of each its frames in order, and of each frame the looks that a device takes.
    """
    means = []
    start = msgspec.structs.replace(distribution, least=0.5)  # the mean of a stream in distribution, in the long run
    for frames in streams:
        monitor = DistributionMonitor(start)
        for looks in frames:
            for source, logits in looks:
                monitor.update(source, logits)
            means.append(monitor.mean)
    if len(means) < LEAST_FRAMES:
        return 0.0
    return round(min(0.5, float(np.quantile(means, _FALSE_ALARMS))), 4)
