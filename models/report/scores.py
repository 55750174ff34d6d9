"""Uncertainty scores of answers, and how well each separates right from wrong: risk against coverage.

Frames are answered in the order of a score, the most certain first. The risk is the share of wrong answers so far:
Y. Geifman and R. El-Yaniv, "Selective Classification for Deep Neural Networks" (arXiv 1705.08500). The area under that
curve as a figure of merit is from section 2 of Y. Geifman et al. (arXiv 1805.08206). A larger score is less certain.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cachenet.models.certify.traces import Logits
from cachenet.shared.cascade.probability import softmax

#: A score of each frame ``(n,)``.
Uncertainty = npt.NDArray[np.float64]
#: Whether each answer is right ``(n,)``.
Right = npt.NDArray[np.bool_]

#: Steps of Newton's method.
_STEPS = 12
#: L2 penalty of the coefficients.
_RIDGE = 1.0


def uncertainty_scores(logits: Logits, temperature: float) -> dict[str, Uncertainty]:
    """The scores of ``logits`` ``(n, classes)``, by name.

    ``entropy``: CacheNet's (arXiv 2007.01793). ``probability``: of all labels but the first. ``margin``: between the
    first two labels. ``energy``: W. Liu et al. (arXiv 2010.03759), section 3.1.
    """
    probabilities = softmax(logits, temperature)
    ordered = np.sort(probabilities, axis=1)
    top = logits.max(1).astype(np.float64)
    return {
        "entropy": -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(1),
        "probability": 1.0 - ordered[:, -1],
        "margin": ordered[:, -2] - ordered[:, -1],
        "energy": -(top + temperature * np.log(np.exp((logits - top[:, None]) / temperature).sum(1))),
    }


def learned(logits: Logits, temperature: float, right: Right) -> Uncertainty:
    """Score of a logistic regression on the other scores, the gaps between the first logits, and the first label.

    The regression is fitted on each half of the frames and applied to the other half.
    """
    ordered = np.sort(logits, axis=1)[:, ::-1].astype(np.float64)
    first = np.eye(logits.shape[1])[logits.argmax(1)]
    gaps = ordered[:, :1] - ordered[:, 1 : min(4, logits.shape[1])]
    features = np.column_stack([*uncertainty_scores(logits, temperature).values(), gaps, ordered[:, 0], first])
    features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    features = np.column_stack([features, np.ones(len(features))])
    halves = np.arange(len(features)) % 2 == 0
    out = np.zeros(len(features))
    for fitted in (halves, ~halves):
        out[~fitted] = features[~fitted] @ _regress(features[fitted], ~right[fitted])
    return out


def curve(score: Uncertainty, right: Right) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Coverage and risk ``(n,)`` after each frame, the most certain first."""
    answered = np.arange(1, len(score) + 1)
    wrong = np.cumsum(~right[np.argsort(score, kind="stable")])
    return answered / len(score), wrong / answered


def area(score: Uncertainty, right: Right) -> float:
    """Area under the curve: the mean risk over all coverages; smaller is better."""
    return float(curve(score, right)[1].mean())


def coverage_at(risk: float, score: Uncertainty, right: Right) -> float:
    """The largest share of frames that can be answered with a risk of at most ``risk``."""
    coverage, risks = curve(score, right)
    within = np.flatnonzero(risks <= risk)
    return float(coverage[within[-1]]) if len(within) else 0.0


def _regress(features: npt.NDArray[np.float64], wrong: Right) -> npt.NDArray[np.float64]:
    """Coefficients of a logistic regression, by Newton's method."""
    weights = np.zeros(features.shape[1])
    for _ in range(_STEPS):
        predicted = 1.0 / (1.0 + np.exp(-np.clip(features @ weights, -30, 30)))
        gradient = features.T @ (predicted - wrong) + _RIDGE * weights
        hessian = (features * (predicted * (1 - predicted))[:, None]).T @ features + _RIDGE * np.eye(len(weights))
        weights -= np.linalg.solve(hessian, gradient)
    return weights
