"""The answer with the candidates of a frame, and its expected object error."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import iou
from cachenet.shared.cascade.detect.tracks import Tracks

#: Greatest overlap of two answered objects of one label; the one of less risk stays.
_SAME = 0.6
#: Least probability of an answered object. The F1 score of an answer is greatest at half of that F1 (Z. Lipton et al.,
#: "Thresholding classifiers to maximize F1 score", arXiv 1402.1892).
ANSWERED = 0.5


def answered(tracks: Tracks, probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Rows of the candidates that are answered, by probability."""
    rows = np.flatnonzero(probabilities >= ANSWERED)
    rows = rows[np.lexsort((tracks.keys[rows], -probabilities[rows]))]
    if len(rows) < 2:
        return rows
    boxes, labels = tracks.visible[rows], tracks.labels[rows]
    twice = (iou(boxes, boxes) > _SAME) & (labels[:, None] == labels[None])
    chosen: list[int] = []
    for at in range(len(rows)):
        if not twice[at, chosen].any():
            chosen.append(at)
    return rows[chosen]


def expected_error(answer: npt.NDArray[np.float64], others: npt.NDArray[np.float64], missed: float) -> float:
    """Expected value of 1 - F1 of an answer.

    Args:
        answer: Probability of each answered object ``(a,)``.
        others: Probability of each candidate that is not answered ``(b,)``.
        missed: Expected number of objects that no candidate covers.
    """
    unanswered = float(others.sum()) + missed
    if not len(answer):
        return 1.0 - float(np.prod(1.0 - others)) * math.exp(-missed)
    # Distribution of the number of true answers (Poisson binomial).
    distribution = np.ones(1)
    for p in answer.tolist():
        longer = np.zeros(len(distribution) + 1)
        longer[:-1] = (1.0 - p) * distribution
        longer[1:] += p * distribution
        distribution = longer
    true = np.arange(len(distribution))
    f1 = 2.0 * true / (len(answer) + true + unanswered)
    return float(1.0 - distribution @ f1)
