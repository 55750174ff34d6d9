"""Probabilities of labels: what a model's scores mean, and how far two opinions are apart."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

#: Probabilities ``(..., classes)`` float64 that sum to one over the last axis.
Probabilities = npt.NDArray[np.float64]

#: Least probability that a logarithm is taken of: features stay within about 9 nats.
FLOOR = 1e-4


def are_scores(logits: npt.NDArray[np.float32], classes: int) -> bool:
    """Whether ``logits`` are scores of so many labels, all finite: those of a damaged model may not be."""
    return logits.shape == (classes,) and bool(np.isfinite(logits).all())


def softmax(logits: npt.NDArray[np.floating], temperature: float = 1.0) -> Probabilities:
    """Softmax of ``logits`` ``(..., classes)`` over ``temperature`` (C. Guo et al., arXiv 1706.04599, section 4.2)."""
    scaled = logits.astype(np.float64)
    scaled -= scaled.max(-1, keepdims=True)
    scaled /= temperature
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(-1, keepdims=True)
    return scaled


def log_floor(probability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithm of ``probability``, of any shape, not under that of ``FLOOR``."""
    return np.log(np.maximum(probability, FLOOR))


def jensen_shannon(first: Probabilities, second: Probabilities) -> npt.NDArray[np.float64]:
    """Root of the Jensen-Shannon divergence over the last axis, 0 to sqrt(log 2): a metric (D. Endres and
    J. Schindelin, IEEE Transactions on Information Theory 49, 2003)."""
    middle = np.log((first + second) / 2 + FLOOR)
    divergence = (first * (np.log(first + FLOOR) - middle) + second * (np.log(second + FLOOR) - middle)).sum(-1) / 2
    return np.sqrt(np.maximum(divergence, 0.0))  # type: ignore[no-any-return]


def fit_temperature(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64] | Probabilities,
    weights: npt.NDArray[np.float64] | None = None,
) -> float:
    """The temperature of least negative log-likelihood.

    Found by golden-section search over its logarithm between 1/8 and 8.

    Args:
        logits: ``(n, classes)``.
        labels: One a row ``(n,)``, or the probability of each ``(n, classes)``.
        weights: How much each row counts ``(n,)``; None: equally.
    """
    z = logits.astype(np.float64)
    own = z[np.arange(len(labels)), labels] if labels.ndim == 1 else (z * labels).sum(1)

    def loss(log_t: float) -> float:
        scaled = z / math.exp(log_t)
        top = scaled.max(1, keepdims=True)
        partition = np.log(np.exp(scaled - top).sum(1)) + top[:, 0]
        return float(np.average(partition - own / math.exp(log_t), weights=weights))

    low, high, golden = math.log(1 / 8), math.log(8), (math.sqrt(5) - 1) / 2
    while high - low > 1e-3:
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return math.exp((low + high) / 2)
