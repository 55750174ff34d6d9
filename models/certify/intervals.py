"""Intervals of F1 by a bootstrap over blocks of consecutive frames, which are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

#: True positives, false positives and false negatives of each frame ``(n, 3)``.
Counts = npt.NDArray[np.int64]
#: Frames of a block, which the bootstrap draws as one. A remainder of less than half a block joins the last one.
BLOCK = 30
#: Samples of a bootstrap.
_DRAWS = 2000
#: Quantiles of a 95 % interval.
_BOUNDS = (0.025, 0.975)

Floats = npt.NDArray[np.float64]


def starts(frames: int, block: int = BLOCK) -> npt.NDArray[np.int64]:
    """First frame of each block of ``frames`` frames."""
    return np.arange(max(1, round(frames / block))) * block


def block_means(values: Floats) -> Floats:
    """Mean of ``values`` ``(n,)`` in each block."""
    first = starts(len(values))
    means: Floats = np.add.reduceat(values, first) / np.diff(np.append(first, len(values)))
    return means


def interval(counts: Counts, seed: int) -> list[float] | None:
    """95 % interval of the F1 of ``counts`` ``(n, 3)``; None for fewer than two blocks."""
    return _interval(_f1(_drawn([counts], seed)[0]))


def difference(
    own: Counts, others: Sequence[Counts], weights: Sequence[float], seed: int, block: int = BLOCK
) -> tuple[float, list[float] | None]:
    """F1 of ``own`` minus the weighted mean of the F1 of ``others``, all on the same frames.

    Args:
        block: Frames of a block.

    Returns:
        The difference, and its 95 % interval with the same blocks drawn for all; None for fewer than two blocks.
    """

    def of(sums: Sequence[npt.NDArray[np.int64]]) -> Floats:
        mine, *theirs = (_f1(one) for one in sums)
        result: Floats = mine - np.tensordot(np.array(weights), np.array(theirs), 1)
        return result

    counts = [own, *others]
    return float(of([one.sum(0)[None] for one in counts])[0]), _interval(of(_drawn(counts, seed, block)))


def _drawn(counts: Sequence[Counts], seed: int, block: int = BLOCK) -> list[npt.NDArray[np.int64]]:
    """Sums of the counts of blocks drawn with replacement, the same blocks for each member ``(_DRAWS, 3)``; one row for
    fewer than two blocks."""
    first = starts(len(counts[0]), block)
    drawn = np.random.default_rng(seed).integers(len(first), size=(_DRAWS, len(first)))
    rows = drawn if len(first) > 1 else drawn[:1]
    return [np.add.reduceat(one, first)[rows].sum(1) for one in counts]


def _f1(sums: npt.NDArray[np.int64]) -> Floats:
    """F1 of each row of counts ``(m, 3)``; 1 where there is nothing."""
    hits, total = 2 * sums[:, 0], 2 * sums[:, 0] + sums[:, 1] + sums[:, 2]
    return np.where(total > 0, hits / np.maximum(total, 1), 1.0)


def _interval(values: Floats) -> list[float] | None:
    return None if len(values) < 2 else [round(float(bound), 5) for bound in np.quantile(values, _BOUNDS)]
