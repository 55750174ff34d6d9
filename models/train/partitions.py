"""Partitions: which part of the data each submodel is to be good at.

Two methods. ``codes``: groups of codes that overlap, chosen one after the other so that working sets that are likely
to occur find a small group that holds them. ``experts``: weak classifiers compete for the data, each sample going to
the one that is most certain of it, in equal numbers so that none collapses (Y. Fang et al., "TeamNet: A Collaborative
Inference Framework on the Edge", ICDCS 2019, work that CacheNet goes back to).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from cachenet.models.train.clusters import Array, Codes, unit
from cachenet.shared.cascade.probability import softmax

Method = Literal["codes", "experts"]
#: Probabilities ``(labels,)`` with which a working set shows labels.
WorkingSet = npt.NDArray[np.float64]
#: The share of each label's frames that each model answers, ``(models, labels)``.
Coverage = npt.NDArray[np.float64]

#: A label is a partition's own where so much of what it holds of the label is its.
_OWN = 0.5
#: Of the embedding, directions that an expert sees: few, for a submodel is weak as well. And how experts learn.
_DIRECTIONS, _ROUNDS, _RATE = 16, 40, 1.0
#: Labels of a drawn working set.
_FEWEST, _MOST = 3, 5


@dataclass(frozen=True)
class Partition:
    """``rows`` ``(n,)``: whether a sample is in it. ``labels``: those that it is meant for, ascending."""

    rows: npt.NDArray[np.bool_]
    labels: tuple[int, ...]


def working_sets(answers: Codes, classes: int, count: int, seed: int) -> list[tuple[int, ...]]:
    """The labels of working sets, where nobody knows which come together: some each, never all, drawn as often as
    they occur in ``answers`` ``(n,)``."""
    rng = np.random.default_rng(seed)
    often = np.bincount(answers, minlength=classes) / len(answers)
    there = int((often > 0).sum())
    drawn = []
    for _ in range(count):
        size = max(1, min(there - 1, int(rng.integers(_FEWEST, _MOST + 1))))
        drawn.append(tuple(rng.choice(classes, size, replace=False, p=often).tolist()))
    return drawn


def together(labels: Sequence[int], classes: int) -> WorkingSet:
    """How often a working set of these labels shows each: any of them may come first, so all alike."""
    chances = np.zeros(classes)
    chances[list(labels)] = 1.0
    working_set: WorkingSet = chances / chances.sum()
    return working_set


def by_codes(codes: Codes, answers: Codes, classes: int, likely: Sequence[WorkingSet], count: int) -> list[Partition]:
    """Up to ``count`` groups of ``codes`` ``(n,)``, of samples with these ``answers`` ``(n,)``.

    What a group is worth to a working set is a guess to choose by, and is measured later: the smaller the group the
    better its submodel, for the part of the working set that it holds; and what it does not hold is lost to it. Groups
    are grown for each working set, and those are taken that add most over all of them (greedy cover, within 1 - 1/e of
    the best: G. Nemhauser et al., Mathematical Programming 14, 1978).
    """
    kinds = int(codes.max()) + 1
    table = np.zeros((classes, kinds))
    np.add.at(table, (answers, codes), 1)
    held = table.sum(0) / len(codes)  # how much of the data each code is
    of_label = table / np.maximum(table.sum(1, keepdims=True), 1)
    shows = np.stack([working_set @ of_label for working_set in likely])  # (sets, kinds)
    groups = {group for row in shows for group in _grow(row, held)}
    candidates = sorted(groups, key=lambda group: (len(group), sorted(group)))
    if not candidates:  # all samples have one answer
        return []
    worth = np.stack([_worth(shows[:, sorted(group)].sum(1), held[sorted(group)].sum()) for group in candidates])
    best = np.zeros(len(likely))
    taken: list[Partition] = []
    while len(taken) < count:
        gains = np.maximum(worth - best, 0).sum(1)
        first = int(gains.argmax())
        if gains[first] <= 1e-9:
            break
        best = np.maximum(best, worth[first])
        rows = np.isin(codes, sorted(candidates[first]))
        taken.append(Partition(rows, _labels(rows, answers, classes)))
    return taken


def by_experts(embeddings: Array, answers: Codes, classes: int, count: int, seed: int) -> list[Partition]:
    """``count`` disjoint parts of ``embeddings`` ``(n, d)`` with these ``answers`` ``(n,)``."""
    rows = unit(embeddings)
    rows = rows - rows.mean(0)
    _, _, directions = np.linalg.svd(rows[:: max(1, len(rows) // 5000)], full_matrices=False)
    seen = rows @ directions[:_DIRECTIONS].T
    seen = np.concatenate([seen / max(float(seen.std()), 1e-12), np.ones((len(rows), 1))], 1)
    wanted = np.eye(classes)[answers]
    rng = np.random.default_rng(seed)
    experts = rng.normal(0, 0.1, (count, seen.shape[1], classes))
    for _ in range(_ROUNDS):
        said = softmax(np.einsum("nd,edc->enc", seen, experts))
        certain = np.log(np.maximum(said[:, np.arange(len(rows)), answers], 1e-9))
        mine = _balanced(certain.T)
        for number in range(count):
            own = mine == number
            experts[number] += _RATE * seen[own].T @ (wanted[own] - said[number, own]) / max(1, int(own.sum()))
    return [Partition(mine == number, _labels(mine == number, answers, classes)) for number in range(count)]


def answered(coverage: Coverage, there: Coverage, likely: Sequence[WorkingSet]) -> float:
    """The mean share of frames, over ``likely`` working sets, that the best of these models answers; ``there``: of
    those that are there anyhow, one at least."""
    return float((np.stack(likely) @ np.concatenate([there, coverage]).T).max(1).mean())


def keep(
    coverage: Coverage,
    there: Coverage,
    megabytes: npt.NDArray[np.float64],
    likely: Sequence[WorkingSet],
    least: float,
    most: int,
) -> list[int]:
    """Which submodels pay for their bytes, the best first, ``most`` of them: each adds the most to what is
    ``answered``, and ``least`` for a megabyte. (The most for a megabyte would fill the places with small ones.)"""
    shows = np.stack(likely)
    own, best = shows @ coverage.T, (shows @ there.T).max(1)
    kept: list[int] = []
    while len(kept) < min(most, len(coverage)):
        gains = np.maximum(own - best[:, None], 0).mean(0)
        gains[gains < least * megabytes] = -1
        gains[kept] = -1
        first = int(gains.argmax())
        if gains[first] < 0:
            break
        kept.append(first)
        best = np.maximum(best, own[:, first])
    return kept


def _grow(shown: npt.NDArray[np.float64], held: npt.NDArray[np.float64]) -> list[frozenset[int]]:
    """Groups for a working set that shows codes so often: those that it shows more than the data does, the likeliest
    first, at each size at which most of it is held."""
    order = [int(code) for code in np.argsort(-shown / np.maximum(held, 1e-12), kind="stable") if shown[code] > 0]
    return [
        frozenset(order[: size + 1])
        for size in range(len(order))
        if shown[order[: size + 1]].sum() > 0.5 and held[order[: size + 1]].sum() < 0.9
    ]


def _worth(inside: npt.NDArray[np.float64], size: float) -> npt.NDArray[np.float64]:
    worth: npt.NDArray[np.float64] = inside * (1 - size) - (1 - inside)
    return worth


def _labels(rows: npt.NDArray[np.bool_], answers: Codes, classes: int) -> tuple[int, ...]:
    everything = np.bincount(answers, minlength=classes)
    inside = np.bincount(answers[rows], minlength=classes)
    own = np.flatnonzero((inside >= _OWN * everything) & (inside > 0))
    if not len(own) and inside.any():  # the data is cut finer than its labels
        own = np.array([inside.argmax()])
    return tuple(own.tolist())


def _balanced(certain: npt.NDArray[np.float64]) -> Codes:
    """To each sample the expert that is most ``certain`` ``(n, experts)``, with prices that make all equally busy
    (D. Bertsekas' auction, in the smooth form of R. Sinkhorn)."""
    experts = certain.shape[1]
    price = np.zeros(experts)
    shares = np.exp(certain - certain.max(1, keepdims=True))
    for _ in range(100):
        wanted = shares * np.exp(-price)
        wanted /= wanted.sum(1, keepdims=True)
        price += np.log(np.maximum(wanted.mean(0) * experts, 1e-9))
    assigned: Codes = (shares * np.exp(-price)).argmax(1).astype(np.int64)
    return assigned
