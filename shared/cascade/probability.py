"""Probabilities of labels: softmax, calibration temperature, Jensen-Shannon distance."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

#: Probabilities ``(..., classes)`` float64 that sum to one over the last axis.
Probabilities = npt.NDArray[np.float64]

#: Least probability in a feature's logarithm, which is then at least -9.2. The Jensen-Shannon distance adds this value.
PROBABILITY_FLOOR = 1e-4


def are_scores(logits: npt.NDArray[np.float32], classes: int) -> bool:
    """Whether ``logits`` have the shape ``(classes,)`` and are finite; those of a damaged model may not be."""
    return logits.shape == (classes,) and bool(np.isfinite(logits).all())


def softmax(logits: npt.NDArray[np.floating], temperature: float = 1.0) -> Probabilities:
    """Softmax of logits ``(..., classes)`` divided by ``temperature`` (C. Guo et al., arXiv 1706.04599, sec. 4.2)."""
    scaled = logits.astype(np.float64)
    scaled -= scaled.max(-1, keepdims=True)
    scaled /= temperature
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(-1, keepdims=True)
    return scaled


def jensen_shannon(first: Probabilities, second: Probabilities) -> npt.NDArray[np.float64]:
    """Jensen-Shannon distance over the last axis, 0 to sqrt(log 2): the root of the divergence, a metric.

    D. Endres and J. Schindelin, IEEE Transactions on Information Theory 49, 2003.
    """
    middle = np.log((first + second) / 2 + PROBABILITY_FLOOR)
    divergence = (
        first * (np.log(first + PROBABILITY_FLOOR) - middle) + second * (np.log(second + PROBABILITY_FLOOR) - middle)
    ).sum(-1) / 2
    return np.sqrt(np.maximum(divergence, 0.0))  # type: ignore[no-any-return]


def fit_temperature(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64] | Probabilities,
    weights: npt.NDArray[np.float64] | None = None,
) -> float:
    """Find the temperature of least negative log-likelihood, by golden-section search over 1/8 to 8.

    Args:
        logits: Scores ``(n, classes)``.
        labels: Label of each row ``(n,)``, or probability of each label ``(n, classes)``.
        weights: Weight of each row ``(n,)``; None for equal weights.
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
