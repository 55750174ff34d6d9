"""Latencies at equal error, with intervals over streams and links."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.literature.learned_offloading.world import Floats, Numbers

#: Samples of the bootstrap.
DRAWS = 1000


@dataclass(frozen=True, eq=False)
class Curve:
    """A policy at several budgets, on streams over links.

    Attributes:
        latency, error: Mean latency, seconds, and share of wrong answers ``(budgets, streams, links)``.
    """

    latency: Floats
    error: Floats

    def at(self, error: float, weights: Floats) -> float:
        """The latency at an error, interpolated between budgets; infinite under the policy's least error. Beyond its
        largest error the policy gains nothing more.

        Args:
            error: The error.
            weights: Weight of each stream and link ``(streams, links)``.
        """
        share = weights / weights.sum()
        errors, latencies = ((table * share).sum((1, 2)) for table in (self.error, self.latency))
        order = np.lexsort((latencies, errors))
        lowest = np.minimum.accumulate(latencies[order])
        return float(np.interp(error, errors[order], lowest, left=np.inf))


def ratios(curves: Mapping[str, Curve], base: str, reference: int) -> dict[str, dict[str, float | list[float]]]:
    """Latency of each policy at the error of ``base`` at its budget ``reference``, over that of ``base`` at this error.

    Returns:
        By policy: ``latency_ms``, ``ratio``, and the 95 % interval of the ratio, by a bootstrap over streams and over
        the links of each.
    """
    rng = np.random.default_rng(0)
    shape = curves[base].error.shape[1:]
    drawn = [_weights(shape, rng) for _ in range(DRAWS)]
    found: dict[str, dict[str, float | list[float]]] = {}
    for name, curve in curves.items():
        every = [_ratio(curve, curves[base], reference, weights) for weights in (np.ones(shape), *drawn)]
        (latency, ratio), own = every[0], [ratio for _, ratio in every[1:]]
        interval = np.quantile(own, (0.025, 0.975), method="inverted_cdf")
        found[name] = {"latency_ms": 1e3 * latency, "ratio": ratio, "interval": interval.tolist()}
    return found


def _ratio(curve: Curve, base: Curve, reference: int, weights: Floats) -> tuple[float, float]:
    share = weights / weights.sum()
    error = float((base.error[reference] * share).sum()) + 1e-12
    latency = curve.at(error, weights)
    return latency, latency / base.at(error, weights)


def _weights(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """How often each stream and link is drawn, with replacement, streams first ``(streams, links)``."""
    streams, links = shape
    weights = np.zeros(shape)
    chosen: Numbers = rng.integers(streams, size=streams)
    for one in chosen:
        weights[one] += np.bincount(rng.integers(links, size=links), minlength=links)
    return weights
