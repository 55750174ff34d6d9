"""Calibrated posteriors: what a model's scores mean as probabilities, whatever model they came from.

Temperature: C. Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599), section 4.2.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

#: Probabilities ``(classes,)`` float64 that sum to one.
Posterior = npt.NDArray[np.float64]


def posterior(logits: npt.NDArray[np.float32], temperature: float) -> Posterior:
    """Softmax of ``logits`` ``(..., classes)`` over ``temperature``."""
    scaled = logits.astype(np.float64)
    scaled -= scaled.max(-1, keepdims=True)
    scaled /= temperature
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(-1, keepdims=True)
    return scaled


def largest(values: Posterior) -> float:
    """The largest of ``values`` ``(n,)``. To find where it is takes NumPy a fifth of what to reduce to it does, where
    classes are few."""
    return float(values[values.argmax()])


def entropy(belief: Posterior) -> float:
    """Shannon entropy in nats, 0..log(classes): the gate score of CacheNet (arXiv 2007.01793)."""
    return -float(np.sum(belief * np.log(np.maximum(belief, 1e-12)))) if len(belief) > 1 else 0.0


def temperature(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64] | Posterior,
    weights: npt.NDArray[np.float64] | None = None,
) -> float:
    """The temperature of least negative log-likelihood for ``logits`` ``(n, classes)`` against ``labels``: one a row
    ``(n,)``, or the probability of each ``(n, classes)``. Rows may count unequally by ``weights`` ``(n,)``. Found by
    golden-section search over its logarithm in 1/8..8."""
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
