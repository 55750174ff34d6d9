"""Scores that an answer may be accepted by, and how well each tells right from wrong: risk against coverage.

Sort frames by what a score makes of them, answer the surest first, and see what share of the answers is wrong: Y.
Geifman and R. El-Yaniv, "Selective Classification for Deep Neural Networks" (arXiv 1705.08500); the area under that
curve as a figure of merit is section 2 of Y. Geifman et al. (arXiv 1805.08206). A score here is a *doubt*: the larger
the less sure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cachenet.models.certify.replay import Logits
from cachenet.shared.cascade.probability import softmax

Doubts = npt.NDArray[np.float64]
Right = npt.NDArray[np.bool_]

#: Steps of Newton's method, and the pull of the coefficients to zero.
_STEPS, _RIDGE = 12, 1.0


def doubts(logits: Logits, temperature: float) -> dict[str, Doubts]:
    """What each score makes of ``logits`` ``(n, classes)``, by name, ``(n,)``.

    ``entropy``: CacheNet's (arXiv 2007.01793). ``probability``: of any label but the first. ``margin``:
    between the first two labels. ``energy``: W. Liu et al. (arXiv 2010.03759), section 3.1.
    """
    words = softmax(logits, temperature)
    ordered = np.sort(words, axis=1)
    top = logits.max(1).astype(np.float64)
    return {
        "entropy": -(words * np.log(np.maximum(words, 1e-12))).sum(1),
        "probability": 1.0 - ordered[:, -1],
        "margin": ordered[:, -2] - ordered[:, -1],
        "energy": -(top + temperature * np.log(np.exp((logits - top[:, None]) / temperature).sum(1))),
    }


def learned(logits: Logits, temperature: float, right: Right) -> Doubts:
    """The doubt of a logistic regression on the other scores, the gaps between the first logits and the label that is
    first. Fitted on each half of the frames for the other one, so that none is judged by what was fitted on it."""
    ordered = np.sort(logits, axis=1)[:, ::-1].astype(np.float64)
    first = np.eye(logits.shape[1])[logits.argmax(1)]
    gaps = ordered[:, :1] - ordered[:, 1 : min(4, logits.shape[1])]
    features = np.column_stack([*doubts(logits, temperature).values(), gaps, ordered[:, 0], first])
    features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    features = np.column_stack([features, np.ones(len(features))])
    halves = np.arange(len(features)) % 2 == 0
    out = np.zeros(len(features))
    for fitted in (halves, ~halves):
        out[~fitted] = features[~fitted] @ _regress(features[fitted], ~right[fitted])
    return out


def curve(doubt: Doubts, right: Right) -> tuple[Doubts, Doubts]:
    """Coverage and risk ``(n,)`` as one more frame after the other is answered, the surest first."""
    answered = np.arange(1, len(doubt) + 1)
    wrong = np.cumsum(~right[np.argsort(doubt, kind="stable")])
    return answered / len(doubt), wrong / answered


def area(doubt: Doubts, right: Right) -> float:
    """Under the curve: the mean risk over all coverages; the smaller the better."""
    return float(curve(doubt, right)[1].mean())


def coverage_at(risk: float, doubt: Doubts, right: Right) -> float:
    """The largest share of frames that can be answered with at most so much risk."""
    coverage, risks = curve(doubt, right)
    within = np.flatnonzero(risks <= risk)
    return float(coverage[within[-1]]) if len(within) else 0.0


def _regress(features: npt.NDArray[np.float64], wrong: Right) -> npt.NDArray[np.float64]:
    """Coefficients of a logistic regression, by Newton's method."""
    weights = np.zeros(features.shape[1])
    for _ in range(_STEPS):
        chance = 1.0 / (1.0 + np.exp(-np.clip(features @ weights, -30, 30)))
        slope = features.T @ (chance - wrong) + _RIDGE * weights
        bend = (features * (chance * (1 - chance))[:, None]).T @ features + _RIDGE * np.eye(len(weights))
        weights -= np.linalg.solve(bend, slope)
    return weights
