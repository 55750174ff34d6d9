"""Heads of centroids: the nearest centroids of the activations vote for a label.

Source: A. Kumar et al., "Accelerating deep learning inference via freezing", arXiv 2002.02645, section 3.

Activations are averaged over the picture, projected to their principal directions and normalised to unit length. Each
label has centroids of its own. The nearest centroids vote, each with a weight that decays with its distance; far from
all centroids, all labels score alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from onnx import helper

from cachenet.models.exits.activations import Activations
from cachenet.models.exits.head_graph import HeadGraph, rows
from cachenet.models.export.graph import Weights
from cachenet.models.train import clusters
from cachenet.shared.cascade.probability import fit_temperature

#: Principal directions that are kept.
_DIRECTIONS = 64
#: Centroids of all labels together.
_CENTROIDS = 400
#: Nearest centroids that vote.
_VOTERS = 12
#: Decay lengths of a vote with the cosine distance that are tried.
_DECAYS = (0.02, 0.04, 0.08)
#: Constant vote for every label.
_UNIFORM = 1e-3


@dataclass(frozen=True)
class Centroids:
    """A head of centroids.

    Attributes:
        projection, shift: To principal directions ``(d, dimensions)`` and ``(d,)``.
        centroids: ``(k, d)`` of unit length.
        labels: Label of each centroid ``(k, classes)``, one-hot.
        decay: Decay length of a vote.
    """

    projection: Weights
    shift: Weights
    centroids: Weights
    labels: Weights
    decay: float = 1.0

    def scores(self, each: Sequence[Activations]) -> Weights:
        """``(n, classes)`` for recorded activations."""
        return self.votes(_unit(rows(each, 1), self.projection, self.shift))

    def votes(self, unit: Weights) -> Weights:
        """``(n, classes)`` for projected activations of unit length ``(n, d)``."""
        cosine = unit @ self.centroids.T
        voters = min(_VOTERS, len(self.centroids))
        nearest = np.argpartition(-cosine, voters - 1, axis=1)[:, :voters]
        votes = np.exp((np.take_along_axis(cosine, nearest, 1) - 1) / self.decay)
        counted: Weights = np.log((votes[:, :, None] * self.labels[nearest]).sum(1) + _UNIFORM).astype(np.float32)
        return counted

    def write(self, graph: HeadGraph) -> tuple[str, str]:
        """Add the head's nodes; return the names of the features and the scores."""
        x = graph.linear(graph.flat(graph.grids(), 1), self.projection, self.shift, "projected")
        length = graph.node("ReduceL2", [x], "length", axes=[1], keepdims=1)
        near = graph.node("Max", [length, graph.fixed("least", np.array(1e-6, np.float32))], "length.least")
        unit = graph.node("Div", [x, near], "unit")
        likeness = graph.node("MatMul", [unit, graph.constant("centroids", self.centroids.T)], "likeness")
        voters = graph.fixed("voters", np.array([min(_VOTERS, len(self.centroids))], np.int64))
        graph.nodes.append(helper.make_node("TopK", [likeness, voters], ["nearest", "places"], name="top", axis=1))
        apart = graph.node("Sub", ["nearest", graph.fixed("one", np.array(1, np.float32))], "apart")
        fading = graph.fixed("fading", np.array(self.decay, np.float32))
        votes = graph.node("Exp", [graph.node("Div", [apart, fading], "faded")], "votes")
        of_labels = graph.node("Gather", [graph.constant("labels", self.labels), "places"], "of.labels", axis=0)
        spread = graph.node("Unsqueeze", [votes, graph.fixed("axis", np.array([1], np.int64))], "spread")
        counted = graph.node("MatMul", [spread, of_labels], "counted")
        flat = graph.node("Flatten", [counted], "votes.labels")
        nobody = graph.fixed("nobody", np.array(_UNIFORM, np.float32))
        return unit, graph.node("Log", [graph.node("Add", [flat, nobody], "votes.all")], "log.votes")


def fit(each: Sequence[Activations], answers: npt.NDArray[np.int64], classes: int, seed: int) -> Centroids:
    """Fit centroids to activations that were recorded with the full model's ``answers`` ``(n,)``."""
    flat = rows(each, 1)
    mean, deviation = flat.mean(0), flat.std(0) + 1e-5
    scaled = (flat - mean) / deviation
    _, _, directions = np.linalg.svd(scaled[:: max(1, len(scaled) // 6000)], full_matrices=False)
    projection = (directions[:_DIRECTIONS] / deviation).astype(np.float32)
    shift = (-projection @ mean).astype(np.float32)
    unit = _unit(flat, projection, shift)
    count = max(1, _CENTROIDS // classes)
    centroids, labels = [], []
    for label in range(classes):
        members = unit[answers == label]
        if len(members):
            found = clusters.fit(members, min(count, len(members)), seed)
            centroids.append(found)
            labels.append(np.full(len(found), label))
    one_hot = np.eye(classes, dtype=np.float32)[np.concatenate(labels)]
    head = Centroids(projection, shift, np.concatenate(centroids).astype(np.float32), one_hot)
    return min((replace(head, decay=decay) for decay in _DECAYS), key=lambda one: _loss(one.votes(unit), answers))


def _unit(flat: Weights, projection: Weights, shift: Weights) -> Weights:
    x = flat @ projection.T + shift
    unit: Weights = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    return unit


def _loss(scores: Weights, answers: npt.NDArray[np.int64]) -> float:
    """Cross-entropy after temperature scaling."""
    scaled = scores.astype(np.float64) / fit_temperature(scores, answers)
    scaled -= scaled.max(1, keepdims=True)
    return float(np.mean(np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(answers)), answers]))
