"""Approximate caches: the nearest of some centroids of activations say what the label is (A. Kumar et al.,
"Accelerating deep learning inference via freezing", arXiv 2002.02645, section 3).

Activations are averaged over the picture, projected to their principal directions and laid on the unit sphere; each
label has centroids of its own. The nearest ones vote, each by how near it is; where none is near all labels are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from cachenet.models.exits.activations import Activations
from cachenet.models.exits.cache import HeadGraph, rows
from cachenet.models.export.graph import Weights
from cachenet.models.train import clusters
from cachenet.shared.cascade.probability import fit_temperature

#: Principal directions, centroids of all labels together, and how many of the nearest vote.
_DIRECTIONS, _CENTROIDS, _VOTERS = 64, 400, 12
#: How fast a vote fades with the distance, and the vote of nobody: what is tried.
_FADINGS = (0.02, 0.04, 0.08)
_NOBODY = 1e-3


@dataclass(frozen=True)
class Centroids:
    """``projection`` ``(d, dimensions)`` and ``shift`` ``(d,)``; ``centroids`` ``(k, d)`` on the unit sphere, of these
    ``labels`` ``(k, classes)``, one a row; ``fading`` of a vote."""

    projection: Weights
    shift: Weights
    centroids: Weights
    labels: Weights
    fading: float

    def scores(self, each: Sequence[Activations]) -> Weights:
        """``(n, classes)`` of recorded activations."""
        return self._votes(self._project(rows(each, 1)), self.fading)

    def write(self, writer: HeadGraph) -> tuple[str, str]:
        """Its nodes; what they call the features and the scores."""
        x = writer.linear(writer.flat(writer.grids(), 1), self.projection, self.shift, "projected")
        length = writer.node("ReduceL2", [x], "length", axes=[1], keepdims=1)
        near = writer.node("Max", [length, writer.fixed("least", np.array(1e-6, np.float32))], "length.least")
        unit = writer.node("Div", [x, near], "unit")
        likeness = writer.node("MatMul", [unit, writer.constant("centroids", self.centroids.T)], "likeness")
        voters = writer.fixed("voters", np.array([min(_VOTERS, len(self.centroids))], np.int64))
        writer.nodes.append(_top(likeness, voters))
        apart = writer.node("Sub", ["nearest", writer.fixed("one", np.array(1, np.float32))], "apart")
        fading = writer.fixed("fading", np.array(self.fading, np.float32))
        votes = writer.node("Exp", [writer.node("Div", [apart, fading], "faded")], "votes")
        of_labels = writer.node("Gather", [writer.constant("labels", self.labels), "places"], "of.labels", axis=0)
        spread = writer.node("Unsqueeze", [votes, writer.fixed("axis", np.array([1], np.int64))], "spread")
        counted = writer.node("MatMul", [spread, of_labels], "counted")
        flat = writer.node("Flatten", [counted], "votes.labels")
        nobody = writer.fixed("nobody", np.array(_NOBODY, np.float32))
        return unit, writer.node("Log", [writer.node("Add", [flat, nobody], "votes.all")], "log.votes")

    def _project(self, flat: Weights) -> Weights:
        x = flat @ self.projection.T + self.shift
        unit: Weights = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
        return unit

    def _votes(self, unit: Weights, fading: float) -> Weights:
        likeness = unit @ self.centroids.T
        voters = min(_VOTERS, len(self.centroids))
        nearest = np.argpartition(-likeness, voters - 1, axis=1)[:, :voters]
        votes = np.exp((np.take_along_axis(likeness, nearest, 1) - 1) / fading)
        counted: Weights = np.log((votes[:, :, None] * self.labels[nearest]).sum(1) + _NOBODY).astype(np.float32)
        return counted


def _top(likeness: str, voters: str) -> NodeProto:
    return helper.make_node("TopK", [likeness, voters], ["nearest", "places"], name="top", axis=1)


def fit(each: Sequence[Activations], answers: npt.NDArray[np.int64], classes: int, seed: int) -> Centroids:
    """Centroids of activations that were recorded with the full model's ``answers`` ``(n,)``."""
    flat = rows(each, 1)
    middle, spread = flat.mean(0), flat.std(0) + 1e-5
    scaled = (flat - middle) / spread
    _, _, directions = np.linalg.svd(scaled[:: max(1, len(scaled) // 6000)], full_matrices=False)
    kept = directions[:_DIRECTIONS]
    projection = (kept / spread).astype(np.float32)
    shift = (-projection @ middle).astype(np.float32)
    cache = Centroids(projection, shift, np.zeros((0, len(kept)), np.float32), np.zeros((0, classes), np.float32), 1.0)
    unit = cache._project(flat)
    own = max(1, _CENTROIDS // classes)
    centroids, labels = [], []
    for label in range(classes):
        members = unit[answers == label]
        if len(members):
            found = clusters.fit(members, min(own, len(members)), seed)
            centroids.append(found)
            labels.append(np.full(len(found), label))
    whole = np.concatenate(centroids).astype(np.float32)
    table = np.eye(classes, dtype=np.float32)[np.concatenate(labels)]
    filled = Centroids(projection, shift, whole, table, 1.0)
    best = min(_FADINGS, key=lambda fading: _surprise(filled._votes(unit, fading), answers))
    return Centroids(projection, shift, whole, table, best)


def _surprise(scores: Weights, answers: npt.NDArray[np.int64]) -> float:
    scaled = scores.astype(np.float64) / fit_temperature(scores, answers)
    scaled -= scaled.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(answers)), answers]))
