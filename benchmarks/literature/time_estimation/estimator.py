"""Estimates the time of kernels, and of whole networks as their sum.

M. Wess et al., "ANNETTE: Accurate Neural Network Execution Time Estimation with Stacked Models" (arXiv 2105.03176): a
roofline of each kind of kernel, and on top of it a model that learns from measured kernels what the roofline leaves
out. L. L. Zhang et al., "nn-Meter" (MobiSys 2021): fused kernels are the unit, and a network's time is their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.literature.time_estimation.kernels import Kernel
from benchmarks.literature.time_estimation.recording import Recording

Array = npt.NDArray[np.float64]
#: Least number of kernels of a kind that trees learn from.
_FEW = 40
#: Share of the measured kernels of a kind that a roof is above.
_ROOF = 0.9


@dataclass(frozen=True)
class Roofline:
    """Time of a kernel that only arithmetic, memory or dispatch limits.

    S. Williams et al., "Roofline", CACM 2009.

    Attributes:
        rate: Multiply-adds per second; 0 for kernels without any.
        bandwidth: Bytes per second.
        constant: Seconds of any kernel.
    """

    rate: float
    bandwidth: float
    constant: float

    @classmethod
    def fit(cls, kernels: Sequence[Kernel], seconds: Array) -> Roofline:
        macs, moved = (np.array([getattr(one, name) for one in kernels]) for name in ("macs", "moved"))
        rate = float(np.quantile(macs / seconds, _ROOF))
        return cls(rate, float(np.quantile(moved / seconds, _ROOF)), float(np.quantile(seconds, 1 - _ROOF)))

    def seconds(self, kernel: Kernel) -> float:
        arithmetic = kernel.macs / self.rate if self.rate else 0.0
        return self.constant + max(arithmetic, kernel.moved / self.bandwidth)


class KindEstimator:
    """Time of the kernels of one kind: a roofline, and gradient-boosted trees for the ratio to it."""

    def __init__(self, kernels: Sequence[Kernel], seconds: Sequence[float]) -> None:
        took = np.array(seconds)
        self._roofline = Roofline.fit(kernels, took)
        ratios = np.log(took / [self._roofline.seconds(one) for one in kernels])
        self._constant = float(np.median(ratios))
        self._trees: Any = None
        if len(kernels) >= _FEW:
            from sklearn.ensemble import HistGradientBoostingRegressor
            from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

            # Of nine settings this had the least error for a fifth of the sweep's networks, fitted to the others.
            self._trees = HistGradientBoostingRegressor(
                loss="absolute_error", learning_rate=0.1, max_iter=200, max_leaf_nodes=12, min_samples_leaf=6,
                l2_regularization=1.0, random_state=0,
            )  # fmt: skip
            with threadpool_limits(1):  # several threads wait for each other on a busy machine
                self._trees.fit([_described(one) for one in kernels], ratios)

    def seconds(self, kernels: Sequence[Kernel]) -> Array:
        rooflines = np.array([self._roofline.seconds(one) for one in kernels])
        if self._trees is None:
            return rooflines * float(np.exp(self._constant))
        corrected: Array = rooflines * np.exp(self._trees.predict([_described(one) for one in kernels]))
        return corrected


class KernelEstimator:
    """Time of any kernel, from those of a sweep. A kind that the sweep lacks is estimated from all without weights."""

    def __init__(self, sweep: Sequence[Recording]) -> None:
        pairs = [pair for one in sweep for pair in zip(one.kernels, one.seconds, strict=True)]
        by_kind: dict[str, list[tuple[Kernel, float]]] = {}
        for kernel, seconds in pairs:
            by_kind.setdefault(kernel.kind, []).append((kernel, seconds))
        others = [(kernel, seconds) for kernel, seconds in pairs if not kernel.macs]
        self._kinds = {kind: KindEstimator(*zip(*own, strict=True)) for kind, own in by_kind.items()}
        self._other = KindEstimator(*zip(*others, strict=True))

    def seconds(self, kernels: Sequence[Kernel]) -> Array:
        """Seconds of each kernel."""
        result = np.zeros(len(kernels))
        for kind in {one.kind for one in kernels}:
            rows = [at for at, one in enumerate(kernels) if one.kind == kind]
            result[rows] = self._kinds.get(kind, self._other).seconds([kernels[at] for at in rows])
        return result


#: Quantities of a network whose weighted sum is its time.
Columns = Callable[[Recording], Sequence[float]]


def weights(columns: Columns, known: Sequence[Recording]) -> Array:
    """Weights of the columns with the least squares of relative errors."""
    whole = np.array([one.whole for one in known])
    table = np.array([columns(one) for one in known], np.float64)
    scale = np.maximum(np.abs(table).max(0), 1e-30)
    found: Array = np.linalg.lstsq(table / scale / whole[:, None], np.ones(len(known)), rcond=None)[0] / scale
    return found


def family_out(columns: Columns, networks: Sequence[Recording]) -> Array:
    """Estimated time of each network, with weights from the networks of all other families."""
    estimates = np.zeros(len(networks))
    for family in {one.family for one in networks}:
        fitted = weights(columns, [one for one in networks if one.family != family])
        for at, one in enumerate(networks):
            if one.family == family:
                estimates[at] = fitted @ np.array(columns(one))
    return estimates


def errors(estimates: Array, networks: Sequence[Recording]) -> dict[str, float]:
    """Mean absolute relative error, Spearman's rank correlation, and the share of networks within 10 %."""
    from scipy.stats import spearmanr

    whole = np.array([one.whole for one in networks])
    relative = np.abs(estimates / whole - 1)
    return {
        "mape": float(relative.mean()),
        "spearman": float(spearmanr(estimates, whole).statistic),
        "within_10": float((relative <= 0.1).mean()),
        "worst": float(relative.max()),
    }


def _described(kernel: Kernel) -> list[float]:
    return [*np.log1p([kernel.macs, kernel.moved, kernel.macs / kernel.moved]), *np.log1p(kernel.features)]
