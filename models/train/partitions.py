"""Partitions: the training data that each submodel is fine-tuned on.

A partition is a group of clusters. Groups may overlap. They are chosen greedily, so that each likely working set finds
a small group that contains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cachenet.models.train.clusters import Labels

Array = npt.NDArray[np.float64]
#: Label frequencies of a working set ``(labels,)``; the sum is 1.
WorkingSet = npt.NDArray[np.float64]
#: Share of each label's frames that each model labels ``(models, labels)``.
Coverage = npt.NDArray[np.float64]

#: Minimum share of a label's frames in a partition that covers the label.
_COVERED = 0.5
#: Minimum and maximum number of labels of a drawn working set.
_SET_SIZES = (3, 5)


@dataclass(frozen=True)
class Partition:
    """Training frames of a submodel."""

    rows: npt.NDArray[np.bool_]  # Whether a frame is in the partition ``(n,)``
    labels: tuple[int, ...]  # Labels that the partition covers, ascending


def draw_working_sets(labels: Labels, classes: int, count: int, seed: int) -> list[tuple[int, ...]]:
    """Draw ``count`` sets of some but not all labels, in proportion to their frequency in ``labels`` ``(n,)``."""
    rng = np.random.default_rng(seed)
    frequency = np.bincount(labels, minlength=classes) / len(labels)
    present = int((frequency > 0).sum())
    smallest, largest = _SET_SIZES
    drawn = []
    for _ in range(count):
        size = max(1, min(present - 1, int(rng.integers(smallest, largest + 1))))
        drawn.append(tuple(rng.choice(classes, size, replace=False, p=frequency).tolist()))
    return drawn


def uniform_working_set(labels: Sequence[int], classes: int) -> WorkingSet:
    """Return the working set in which ``labels`` are equally frequent."""
    frequency = np.zeros(classes)
    frequency[list(labels)] = 1.0
    working_set: WorkingSet = frequency / frequency.sum()
    return working_set


def group_clusters(
    clusters: Labels, labels: Labels, classes: int, likely: Sequence[WorkingSet], count: int
) -> list[Partition]:
    """Group clusters into partitions.

    Candidate groups are grown for each likely working set. A group's score for a working set is an estimate: a smaller
    group gives a better submodel, and frames outside the group are lost. Groups are taken that add most over all
    working sets (greedy cover, within 1 - 1/e of the optimum: G. Nemhauser et al., Mathematical Programming 14, 1978).

    Args:
        clusters: Cluster of each frame ``(n,)``.
        labels: Full model's label of each frame ``(n,)``.
        likely: Working sets to cover.
        count: Maximum number of partitions.
    """
    table = np.zeros((classes, int(clusters.max()) + 1))
    np.add.at(table, (labels, clusters), 1)
    share = table.sum(0) / len(clusters)  # of the data, for each cluster
    of_label = table / np.maximum(table.sum(1, keepdims=True), 1)
    frequency = np.stack([working_set @ of_label for working_set in likely])  # (sets, clusters)
    groups = {group for row in frequency for group in _grow(row, share)}
    candidates = sorted(groups, key=lambda group: (len(group), sorted(group)))
    if not candidates:  # all frames have one label
        return []
    scores = np.stack([_score(frequency[:, sorted(group)].sum(1), share[sorted(group)].sum()) for group in candidates])
    best = np.zeros(len(likely))
    chosen: list[Partition] = []
    while len(chosen) < count:
        gains = np.maximum(scores - best, 0).sum(1)
        first = int(gains.argmax())
        if gains[first] <= 1e-9:
            break
        best = np.maximum(best, scores[first])
        rows = np.isin(clusters, sorted(candidates[first]))
        chosen.append(Partition(rows, _covered_labels(rows, labels, classes)))
    return chosen


def mean_coverage(coverage: Coverage, general: Coverage, likely: Sequence[WorkingSet]) -> float:
    """Return the share of frames that the best model labels, mean over the ``likely`` working sets.

    Args:
        coverage: Coverage of the submodels ``(k, labels)``.
        general: Coverage of the general models ``(at least 1, labels)``.
        likely: Working sets.
    """
    return float((np.stack(likely) @ np.concatenate([general, coverage]).T).max(1).mean())


def select_submodels(
    coverage: Coverage,
    general: Coverage,
    megabytes: Array,
    likely: Sequence[WorkingSet],
    min_coverage: float,
    most: int,
) -> list[int]:
    """Select submodels greedily by what they add to ``mean_coverage``.

    Selection by gain for a megabyte would select small ones only.

    Args:
        coverage: Coverage of the submodels ``(k, labels)``.
        general: Coverage of the general models ``(at least 1, labels)``.
        megabytes: File size of each submodel ``(k,)``.
        likely: Working sets.
        min_coverage: Minimum gain in mean coverage for a megabyte.
        most: Maximum number of selected submodels.

    Returns:
        Numbers of the selected submodels, the best first.
    """
    frequency = np.stack(likely)
    own, best = frequency @ coverage.T, (frequency @ general.T).max(1)
    chosen: list[int] = []
    while len(chosen) < min(most, len(coverage)):
        gains = np.maximum(own - best[:, None], 0).mean(0)
        gains[gains < min_coverage * megabytes] = -1
        gains[chosen] = -1
        first = int(gains.argmax())
        if gains[first] < 0:
            break
        chosen.append(first)
        best = np.maximum(best, own[:, first])
    return chosen


def _grow(frequency: Array, share: Array) -> list[frozenset[int]]:
    """Return groups of clusters, at each size that contains most of a working set and not nearly all of the data.

    ``frequency`` and ``share`` ``(clusters,)``: frequency of each cluster in the set and in the data.
    """
    order = [int(one) for one in np.argsort(-frequency / np.maximum(share, 1e-12), kind="stable") if frequency[one] > 0]
    return [
        frozenset(order[: size + 1])
        for size in range(len(order))
        if frequency[order[: size + 1]].sum() > 0.5 and share[order[: size + 1]].sum() < 0.9
    ]


def _score(inside: Array, size: float) -> Array:
    """Score a group of ``size`` (share of the data) that holds ``inside`` of each working set ``(sets,)``."""
    score: Array = inside * (1 - size) - (1 - inside)
    return score


def _covered_labels(rows: npt.NDArray[np.bool_], labels: Labels, classes: int) -> tuple[int, ...]:
    total = np.bincount(labels, minlength=classes)
    inside = np.bincount(labels[rows], minlength=classes)
    covered = np.flatnonzero((inside >= _COVERED * total) & (inside > 0))
    if not len(covered) and inside.any():  # the partition is smaller than half of any label
        covered = np.array([inside.argmax()])
    return tuple(covered.tolist())
