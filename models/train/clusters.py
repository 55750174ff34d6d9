"""Clusters of the full model's embeddings, by spherical k-means.

I. Dhillon and D. Modha, "Concept Decompositions for Large Sparse Text Data Using Clustering", Machine Learning 42
(2001), section 3. Initialised by greedy k-means++ (D. Arthur and S. Vassilvitskii, SODA 2007, section 7) with the
cosine distance.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
#: Cluster numbers or labels ``(n,)``.
Labels = npt.NDArray[np.int64]

#: Maximum number of iterations.
_MAX_ITERATIONS = 50
#: Candidates for each initial centre.
_CANDIDATES = 5
#: Embeddings that are compared with all centres at once.
_BLOCK = 4096


def unit(rows: Array) -> Array:
    """Scale ``rows`` ``(n, d)`` to length 1; a zero row stays zero."""
    scaled: Array = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled


def fit(embeddings: Array, count: int, seed: int) -> Array:
    """Find cluster centres.

    Args:
        embeddings: ``(n, d)``.
        count: Maximum number of centres.
        seed: Seed of the initialisation.

    Returns:
        Centres of length 1 ``(k, d)``; fewer than ``count`` if there are fewer distinct embeddings.
    """
    rows = unit(embeddings)
    centres = _initial_centres(rows, count, np.random.default_rng(seed))
    before = np.full(len(rows), -1)
    for _ in range(_MAX_ITERATIONS):
        clusters = assign(rows, centres)
        if np.array_equal(clusters, before):
            break
        before = clusters
        sums = np.zeros_like(centres)
        np.add.at(sums, clusters, rows)
        empty = np.bincount(clusters, minlength=len(centres)) == 0
        centres = np.where(empty[:, None], centres, unit(sums)).astype(np.float32)
    return centres


def assign(embeddings: Array, centres: Array) -> Labels:
    """Return the cluster of each embedding ``(n,)``: the centre of the largest cosine."""
    parts = [(embeddings[at : at + _BLOCK] @ centres.T).argmax(1) for at in range(0, len(embeddings), _BLOCK)]
    return np.concatenate(parts).astype(np.int64)


def _initial_centres(rows: Array, count: int, rng: np.random.Generator) -> Array:
    """Draw candidates in proportion to their distance; take each time the one that leaves the least total distance."""
    chosen = [int(rng.integers(len(rows)))]
    distance = np.maximum(0.0, 1.0 - rows @ rows[chosen[0]]).astype(np.float64)
    while len(chosen) < count and distance.sum() > 1e-6 * len(rows):
        drawn = rng.choice(len(rows), _CANDIDATES, p=distance / distance.sum())
        after = [np.minimum(distance, np.maximum(0.0, 1.0 - rows @ rows[row])) for row in drawn]
        best = int(np.argmin([left.sum() for left in after]))
        chosen.append(int(drawn[best]))
        distance = after[best]
    centres: Array = rows[chosen].copy()
    return centres
