"""Trains heads for every site of a model, and measures them on other frames: the candidates for exits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cachenet.models.exits import freeze, train_heads
from cachenet.models.exits.activations import Activations
from cachenet.models.exits.freeze import Centroids
from cachenet.models.exits.head_graph import HeadGraph
from cachenet.models.exits.select import ExitChoice, compose
from cachenet.models.exits.sites import Shapes, Site
from cachenet.models.exits.train_heads import NetworkHead
from cachenet.models.export.graph import Weights
from cachenet.shared.bundle.manifest import ExitKind, HeadKind
from cachenet.shared.cascade.probability import fit_temperature, softmax
from cachenet.shared.inference.engine import ModelPart
from cachenet.shared.inference.graph_split import SplitModel, cut
from cachenet.shared.inference.image import Input, blank

#: Runs whose median is a measured time.
_RUNS = 30
#: Share of wrong answers at which kinds of heads are compared.
_COMPARED_AT = 0.004


@dataclass(frozen=True)
class HeadTimes:
    """Seconds for one picture: until each site is ``reached``, and of the ``whole`` model."""

    reached: tuple[float, ...]
    whole: float


@dataclass(frozen=True)
class TrainedHead:
    """A head in the file ``path``. ``candidate``: measured on frames that the head was not trained on."""

    kind: HeadKind
    path: Path
    candidate: ExitChoice


@dataclass(frozen=True)
class HeadData:
    """Activations by tensor name, and the full model's ``scores`` ``(n, classes)`` for the same frames."""

    activations: Mapping[str, Activations]
    scores: Weights

    def at(self, site: Site) -> list[Activations]:
        return [self.activations[name] for name in site.features]

    @property
    def answers(self) -> npt.NDArray[np.int64]:
        answers: npt.NDArray[np.int64] = self.scores.argmax(1).astype(np.int64)
        return answers


def measure_times(model: SplitModel, sites: Sequence[Site], spec: Input, threads: int) -> HeadTimes:
    """Times on this machine: the model cut at every site, and whole, in alternation."""
    pieces = cut(model, [site.tensors for site in sites])
    segments = [ModelPart(piece.model, "segment", "cpu", threads) for piece in pieces]
    whole = ModelPart(cut(model, [])[0].model, "full model", "cpu", threads)
    picture = {model.image: blank(spec)}
    times: list[list[float]] = []
    for _ in range(_RUNS):
        begin, tensors, ends = time.perf_counter(), dict(picture), []
        for segment in segments:
            tensors |= segment.run(tensors)
            ends.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        whole.run(picture)
        times.append([*ends[:-1], time.perf_counter() - begin])
    *reached, total = np.median(times, axis=0).tolist()
    return HeadTimes(tuple(reached), total)


def train_head(
    way: ExitKind,
    number: int,
    site: Site,
    known: Shapes,
    learn: HeadData,
    tune: HeadData,
    cost: HeadTimes,
    seed: int,
    scratch: Path,
) -> TrainedHead:
    """Train the best head of kind ``way`` for site ``number`` on ``learn``; heads are compared on ``tune``."""
    each, classes = learn.at(site), learn.scores.shape[1]
    heads: dict[HeadKind, Centroids | NetworkHead]
    if way == "freeze":
        heads = {"centroids": freeze.fit(each, learn.answers, classes, seed)}
    else:
        heads = {kind: train_heads.train(kind, each, learn.scores, seed) for kind in train_heads.kinds(each)}
    trained = []
    for kind, head in heads.items():
        path = scratch / f"{way}-{number}-{kind}.onnx"
        graph = HeadGraph(site, known)
        graph.write(*head.write(graph), classes, path, {"kind": kind})
        scores = head.scores(tune.at(site))
        risk = 1.0 - softmax(scores, fit_temperature(scores, tune.answers)).max(1)
        wrong = scores.argmax(1) != tune.answers
        candidate = ExitChoice(number, risk, wrong, measure_lookup(path, site, known), path.stat().st_size)
        trained.append(TrainedHead(kind, path, candidate))
    # The best head is the one that saves most as the only exit.
    return min(trained, key=lambda one: _seconds_alone(one.candidate, cost))


def _seconds_alone(candidate: ExitChoice, cost: HeadTimes) -> float:
    return compose([candidate], cost.reached, cost.whole, 1, candidate.size, _COMPARED_AT).seconds


def measure_lookup(path: Path, site: Site, known: Shapes) -> float:
    """Seconds of a head for one picture."""
    head = ModelPart(path.read_bytes(), path.name, "cpu", 1)
    tensors = {name: np.zeros((1, *(size or 1 for size in known[name][1:])), np.float32) for name in site.features}
    return median_seconds(head, tensors)


def median_seconds(part: ModelPart, tensors: Mapping[str, npt.NDArray[np.float32]], runs: int = _RUNS) -> float:
    """Median seconds of a run of a part of a model."""
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        part.run(tensors)
        times.append(time.perf_counter() - begin)
    return float(np.median(times))
