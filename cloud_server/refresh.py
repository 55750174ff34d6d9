"""Caches between layers kept fresh: corrected by what the whole model has said of late, if that is proven to be better.

A stream shows few labels, and a cache that has learned which can be sure earlier (A. Balasubramanian et al.,
"Accelerating deep learning inference via learned caches", arXiv 2101.07344, section 6). What it learns is a linear
correction of its scores, held back towards none; it counts only if it is better on recent requests that it has not
learned from, and no worse on requests of all times: a window full of something odd teaches nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.probability import Probabilities, fit_temperature, softmax
from cachenet.shared.cascade.rates import clopper_pearson_upper
from cachenet.shared.inference.early_exit import Correction, ExitFeatures

#: Requests that are remembered: the latest, and some of those before; and how many of each are needed to learn.
_RECENT, _EVER, _LEAST = 768, 1024, 150
#: With what confidence a correction must keep to its terms, and what so few rows may leave open, as a share.
_CONFIDENCE, _SLACK = 0.5, 0.01
#: Of each, the share that proves what was learned from the rest.
_PROVES = 0.3
#: How strongly a correction is held back, and how it is found.
_HOLD, _STEPS, _RATE = 3e-3, 150, 0.02
#: What a correction must add to the share of requests that a cache answers; and how much of what it answered before
#: now it must still.
_MORE, _STILL = 0.01, 0.9
Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Row:
    """A request that ran through the whole model: for each cache what it had seen and said, by its number; the whole
    model's ``label``; how many requests it stands for."""

    seen: dict[int, ExitFeatures]
    label: int
    weight: float


class Window:
    """The latest requests, and a fair sample of those before them."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._recent: deque[Row] = deque()
        self._ever: list[Row] = []
        self._left = 0

    def add(self, row: Row) -> None:
        self._recent.append(row)
        if len(self._recent) <= _RECENT:
            return
        old = self._recent.popleft()
        self._left += 1
        if len(self._ever) < _EVER:
            self._ever.append(old)
        elif (place := int(self._draw() * self._left)) < _EVER:
            self._ever[place] = old

    @property
    def count(self) -> int:
        """Of all requests that were added."""
        return self._left + len(self._recent)

    def rows(self) -> tuple[list[Row], list[Row]]:
        """The latest, oldest first, and some of those before them."""
        return list(self._recent), list(self._ever)


@dataclass(frozen=True)
class Terms:
    """What a correction of one cache must keep to: its own ``temperature`` and ``threshold``, the share of requests
    that it may answer ``wrong``, and its ``present`` correction, than which it must be better."""

    temperature: float
    threshold: float
    wrong: float
    present: Correction | None = None


def refresh(recent: Sequence[Row], ever: Sequence[Row], terms: dict[int, Terms]) -> dict[int, Correction]:
    """Corrections for the caches for which one is proven, by their numbers. ``recent`` and ``ever``: see ``Window``."""
    found = {number: _refresh(number, recent, ever, own) for number, own in terms.items()}
    return {number: correction for number, correction in found.items() if correction is not None}


def _refresh(number: int, recent: Sequence[Row], ever: Sequence[Row], terms: Terms) -> Correction | None:
    new, old = (_Sample.of(number, rows) for rows in (recent, ever))
    if new is None or old is None:
        return None
    (learn, prove), (rehearse, keep) = new.divided(), old.divided()
    weight, bias = _fit(learn.joined(rehearse))
    bare = Correction(weight, bias, 1.0)
    degree = fit_temperature(bare.apply(learn.features, learn.scores), learn.labels, learn.weights)
    correction = Correction(weight, bias, max(degree, terms.temperature))
    for sample, more, still in ((prove, _MORE, 1.0), (keep, 0.0, _STILL)):
        hits, _ = sample.judged(terms, terms.present)
        now, wrong = sample.judged(terms, correction)
        if (
            now < still * hits + more
            or clopper_pearson_upper(wrong * sample.size, sample.size, _CONFIDENCE) > terms.wrong + _SLACK
        ):
            return None
    return correction


@dataclass(frozen=True)
class _Sample:
    features: Array
    scores: Array
    labels: npt.NDArray[np.int64]
    weights: Probabilities

    @staticmethod
    def of(number: int, rows: Sequence[Row]) -> _Sample | None:
        """What cache ``number`` has seen; None if that is too little."""
        own = [row for row in rows if number in row.seen]
        if len(own) < _LEAST:
            return None
        features, scores = (np.stack([getattr(row.seen[number], name) for row in own]) for name in ExitFeatures._fields)
        labels = np.array([row.label for row in own], np.int64)
        return _Sample(features, scores, labels, np.array([row.weight for row in own]))

    @property
    def total(self) -> float:
        return float(self.weights.sum())

    @property
    def size(self) -> float:
        """As many rows of equal weight would tell as much (L. Kish, "Survey Sampling", 1965)."""
        return self.total**2 / float((self.weights**2).sum())

    def divided(self) -> tuple[_Sample, _Sample]:
        """To learn from, and to prove with: the later part."""
        at = round((1 - _PROVES) * len(self.labels))
        first, second = slice(None, at), slice(at, None)
        return self._part(first), self._part(second)

    def joined(self, other: _Sample) -> _Sample:
        pairs = ((self.features, other.features), (self.scores, other.scores))
        features, scores = (np.concatenate(pair) for pair in pairs)
        labels, weights = np.concatenate((self.labels, other.labels)), np.concatenate((self.weights, other.weights))
        return _Sample(features, scores, labels, weights)

    def judged(self, terms: Terms, correction: Correction | None) -> tuple[float, float]:
        """The share of requests that a cache with this correction would answer, and that it would answer falsely."""
        scores = self.scores if correction is None else correction.apply(self.features, self.scores)
        degree = terms.temperature if correction is None else correction.temperature
        hit = 1.0 - softmax(scores, degree).max(1) <= terms.threshold
        shares = self.weights / self.total
        return float(shares[hit].sum()), float(shares[hit & (scores.argmax(1) != self.labels)].sum())

    def _part(self, rows: slice) -> _Sample:
        return _Sample(self.features[rows], self.scores[rows], self.labels[rows], self.weights[rows])


def _fit(sample: _Sample) -> tuple[Array, Array]:
    """The correction of least surprise, by Adam (D. Kingma and J. Ba, arXiv 1412.6980) on all rows at once."""
    middle, spread = sample.features.mean(0), sample.features.std(0)
    spread = np.maximum(spread, 0.05 * np.median(spread) + 1e-6)  # what hardly ever changes is not blown up
    inputs = np.concatenate([(sample.features - middle) / spread, np.ones((len(sample.labels), 1))], 1).astype(
        np.float32
    )
    targets = np.eye(sample.scores.shape[1])[sample.labels]
    shares = (sample.weights / sample.total)[:, None]
    solution = np.zeros((inputs.shape[1], sample.scores.shape[1]))
    first, second = np.zeros_like(solution), np.zeros_like(solution)
    for step in range(1, _STEPS + 1):
        belief = softmax((sample.scores + inputs @ solution).astype(np.float32), 1.0)
        slope = inputs.T @ (shares * (belief - targets)) + _HOLD * solution
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        rate = _RATE * 0.5 * (1 + np.cos(np.pi * step / _STEPS))
        solution -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    weight = solution[:-1] / spread[:, None]
    bias = solution[-1] - middle @ weight
    return weight.astype(np.float32), bias.astype(np.float32)
