"""Codes: what the full model's embeddings fall into, by spherical k-means.

I. Dhillon and D. Modha, "Concept Decompositions for Large Sparse Text Data Using Clustering", Machine Learning 42
(2001), section 3; begun as greedy k-means++ begins (D. Arthur and S. Vassilvitskii, SODA 2007, section 7), with the
cosine for a distance.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]

_ROUNDS = 50
#: Rows that are tried for each first centre.
_TRIES = 5
#: Rows of embeddings that are compared with all centres at once.
_ROWS = 4096


def unit(rows: Array) -> Array:
    """``rows`` ``(n, d)`` scaled to length 1; a row of nothing stays nothing."""
    scaled: Array = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled


def fit(embeddings: Array, count: int, seed: int) -> Array:
    """Up to ``count`` centres ``(k, d)`` of length 1 for ``embeddings`` ``(n, d)``: fewer where there are fewer that
    differ. The same seed gives the same centres."""
    rows = unit(embeddings)
    centres = _begin(rows, count, np.random.default_rng(seed))
    before = np.full(len(rows), -1)
    for _ in range(_ROUNDS):
        codes = assign(rows, centres)
        if np.array_equal(codes, before):
            break
        before = codes
        sums = np.zeros_like(centres)
        np.add.at(sums, codes, rows)
        empty = np.bincount(codes, minlength=len(centres)) == 0
        centres = np.where(empty[:, None], centres, unit(sums)).astype(np.float32)
    return centres


def assign(embeddings: Array, centres: Array) -> Codes:
    """The code of each embedding ``(n,)``: the centre of the largest cosine."""
    parts = [(embeddings[at : at + _ROWS] @ centres.T).argmax(1) for at in range(0, len(embeddings), _ROWS)]
    return np.concatenate(parts).astype(np.int64)


def _begin(rows: Array, count: int, rng: np.random.Generator) -> Array:
    """Centres far from one another: of some drawn in proportion to what those before leave unexplained, each time the
    one that leaves least."""
    chosen = [int(rng.integers(len(rows)))]
    left = np.maximum(0.0, 1.0 - rows @ rows[chosen[0]]).astype(np.float64)
    while len(chosen) < count and left.sum() > 1e-6 * len(rows):
        drawn = rng.choice(len(rows), _TRIES, p=left / left.sum())
        after = [np.minimum(left, np.maximum(0.0, 1.0 - rows @ rows[one])) for one in drawn]
        best = int(np.argmin([one.sum() for one in after]))
        chosen.append(int(drawn[best]))
        left = after[best]
    begun: Array = rows[chosen].copy()
    return begun
