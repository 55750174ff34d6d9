"""Representative pictures: in each cluster of each class, the picture of least entropy.

EncodeNet's intraclass clustering: k-means over the baseline network's features, and its entropy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cachenet.models.train import clusters
from cachenet.shared.cascade.probability import softmax

#: Clusters of each class.
CLUSTERS = 10


@dataclass(frozen=True)
class Representatives:
    """The representative pictures of a data set of ``n`` pictures.

    Attributes:
        rows: Row of each representative picture ``(r,)``.
        of: Number of the representative of each picture ``(n,)``, of the same class.
    """

    rows: npt.NDArray[np.int64]
    of: npt.NDArray[np.int64]


def representatives(
    embeddings: npt.NDArray[np.float32],
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    seed: int,
    count: int = CLUSTERS,
) -> Representatives:
    """Choose the representative pictures.

    Args:
        embeddings: Of the baseline network ``(n, d)``.
        logits: Of the baseline network ``(n, classes)``. A representative has its label, if any of its cluster does.
        labels: Class of each picture ``(n,)``.
        seed: Seed of the clusters.
        count: Largest number of clusters of a class.
    """
    probabilities = softmax(logits)
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(1)
    entropy += 1e3 * (logits.argmax(1) != labels)
    chosen: list[int] = []
    of = np.zeros(len(labels), np.int64)
    for label in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == label)
        own = clusters.assign(embeddings[rows], clusters.fit(embeddings[rows], count, seed))
        for cluster in np.unique(own).tolist():
            members = rows[own == cluster]
            of[members] = len(chosen)
            chosen.append(int(members[entropy[members].argmin()]))
    return Representatives(np.array(chosen, np.int64), of)
