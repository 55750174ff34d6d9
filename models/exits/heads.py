"""Caches taught for every place where a model can be cut, each with what it is worth there: what is composed from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cachenet.models.exits import freeze, train_heads
from cachenet.models.exits.activations import Activations
from cachenet.models.exits.cache import HeadGraph
from cachenet.models.exits.freeze import Centroids
from cachenet.models.exits.select import ExitChoice, compose
from cachenet.models.exits.sites import Cut, Shapes
from cachenet.models.exits.train_heads import Predictor
from cachenet.models.export.graph import Weights
from cachenet.shared.bundle.manifest import Kind, Way
from cachenet.shared.cascade.probability import fit_temperature, softmax
from cachenet.shared.inference.engine import ModelPart
from cachenet.shared.inference.graph_split import SplitModel, cut
from cachenet.shared.inference.image import Input, blank

#: Runs that a time is the median of.
_RUNS = 30
#: The share of wrong answers at which kinds are compared.
_JUDGED = 0.004


@dataclass(frozen=True)
class HeadTimes:
    """Seconds of one picture: until each cut is ``reached``, and of the ``whole`` model."""

    reached: tuple[float, ...]
    whole: float


@dataclass(frozen=True)
class TrainedHead:
    """A cache, in the file ``path``; ``candidate``: what it is worth on frames that it was not taught with."""

    kind: Kind
    path: Path
    candidate: ExitChoice


@dataclass(frozen=True)
class HeadData:
    """Activations by tensor, and the full model's ``scores`` ``(n, classes)`` of the same frames."""

    activations: Mapping[str, Activations]
    scores: Weights

    def at(self, place: Cut) -> list[Activations]:
        return [self.activations[name] for name in place.features]

    @property
    def answers(self) -> npt.NDArray[np.int64]:
        answers: npt.NDArray[np.int64] = self.scores.argmax(1).astype(np.int64)
        return answers


def times(model: SplitModel, places: Sequence[Cut], spec: Input, threads: int) -> HeadTimes:
    """Measured here: the model whole and cut at every place, by turns."""
    pieces = cut(model, [place.tensors for place in places])
    segments = [ModelPart(piece.model, "segment", "cpu", threads) for piece in pieces]
    whole = ModelPart(cut(model, [])[0].model, "full model", "cpu", threads)
    picture = {model.image: blank(spec)}
    took: list[list[float]] = []
    for _ in range(_RUNS):
        begun, held, ends = time.perf_counter(), dict(picture), []
        for segment in segments:
            held |= segment.run(held)
            ends.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        whole.run(picture)
        took.append([*ends[:-1], time.perf_counter() - begun])
    *reached, total = np.median(took, axis=0).tolist()
    return HeadTimes(tuple(reached), total)


def teach(
    way: Way,
    number: int,
    place: Cut,
    known: Shapes,
    learn: HeadData,
    tune: HeadData,
    cost: HeadTimes,
    seed: int,
    scratch: Path,
) -> TrainedHead:
    """The best cache of that ``way`` for the cut ``place``, which has this ``number``: taught with ``learn``, judged on
    ``tune``, written into ``scratch``."""
    each, classes = learn.at(place), learn.scores.shape[1]
    caches: dict[Kind, Centroids | Predictor]
    if way == "freeze":
        caches = {"centroids": freeze.fit(each, learn.answers, classes, seed)}
    else:
        caches = {kind: train_heads.train(kind, each, learn.scores, seed) for kind in train_heads.kinds(each)}
    made = []
    for kind, cache in caches.items():
        path = scratch / f"{way}-{number}-{kind}.onnx"
        writer = HeadGraph(place, known)
        features, scores = cache.write(writer)
        writer.write(features, scores, classes, path, {"kind": kind})
        said = cache.scores(tune.at(place))
        belief = softmax(said, fit_temperature(said, tune.answers))
        wrong = said.argmax(1) != tune.answers
        candidate = ExitChoice(number, 1.0 - belief.max(1), wrong, lookup(path, place, known), path.stat().st_size)
        made.append(TrainedHead(kind, path, candidate))
    # Of several kinds the one that would do most if it were the only cache.
    return min(made, key=lambda one: _alone(one.candidate, cost))


def _alone(candidate: ExitChoice, cost: HeadTimes) -> float:
    return compose([candidate], cost.reached, cost.whole, 1, candidate.size, _JUDGED).seconds


def lookup(path: Path, place: Cut, known: Shapes) -> float:
    """Seconds of a lookup of one picture."""
    cache = ModelPart(path.read_bytes(), path.name, "cpu", 1)
    held = {name: np.zeros((1, *(size or 1 for size in known[name][1:])), np.float32) for name in place.features}
    took = []
    for _ in range(_RUNS):
        begun = time.perf_counter()
        cache.run(held)
        took.append(time.perf_counter() - begun)
    return float(np.median(took))
