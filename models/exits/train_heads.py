"""Heads of small networks, from activations to the full model's scores: pooled, fully connected and convolutional.

Source: A. Balasubramanian et al., "Accelerating deep learning inference via learned caches", arXiv 2101.07344,
section 4. The full model's scores are the targets, so frames need no labels. The calibrated risk of a head takes the
place of the paper's selector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cachenet.models.exits.activations import Activations
from cachenet.models.exits.head_graph import HeadGraph, rows
from cachenet.models.export.graph import Weights
from cachenet.models.train.networks import array

Kind = Literal["pooled", "hidden", "convolution"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Largest side of the maps that each kind takes.
_SIDES: dict[Kind, int] = {"pooled": 1, "hidden": 2, "convolution": 4}
#: Units of the hidden layer, and channels of the convolution.
_HIDDEN, _CHANNELS = 64, 32
#: Smallest number of epochs.
_EPOCHS = 12
#: Smallest number of training steps.
_STEPS = 600
#: Channels, or dimensions of a vector, whose statistics are computed together.
_COLUMNS = 64
#: Batch size, learning rate and weight decay.
_BATCH, _RATE, _DECAY = 128, 2e-3, 0.05
#: Temperature of the full model's scores as targets.
_TARGET_TEMPERATURE = 2.0


class NetworkHead(nn.Module):
    """A network from recorded activations to scores. Its inputs are ``rows`` of maps and vectors, the newest first."""

    def __init__(self, kind: Kind, each: Sequence[Activations], classes: int) -> None:
        super().__init__()
        self.kind = kind
        self.mean, self.deviation = statistics(each, _SIDES[kind])
        dimensions = len(self.mean)
        self.newest = each[0].shape[1:]
        self.first: nn.Module = nn.Identity()
        if kind == "hidden":
            self.first, dimensions = nn.Linear(dimensions, _HIDDEN), _HIDDEN
        elif kind == "convolution":
            channels, side = self.newest[0], self.newest[1]
            self.first = nn.Conv2d(channels, _CHANNELS, 3, 1, 1)
            dimensions += (_CHANNELS - channels) * side * side
        self.head = nn.Linear(dimensions, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.dropout(self.features((x - self.mean) / self.deviation), 0.2, self.training))
        return y

    def features(self, x: Tensor) -> Tensor:
        """Inputs of the last layer."""
        if self.kind == "hidden":
            return F.relu(self.first(x))
        if self.kind == "convolution":
            size = int(np.prod(self.newest))
            convolved = F.relu(self.first(x[:, :size].view(-1, *self.newest)))
            return torch.cat([convolved.flatten(1), x[:, size:]], 1)
        return x

    def scores(self, each: Sequence[Activations]) -> Weights:
        """``(n, classes)`` for recorded activations."""
        with torch.no_grad():
            return array(self.eval()(torch.from_numpy(rows(each, _SIDES[self.kind]))))

    def write(self, graph: HeadGraph) -> tuple[str, str]:
        """Add the head's nodes; return the names of the features and the scores."""
        mean, gain = array(self.mean), array(1 / self.deviation)
        each = graph.grids()
        if isinstance(self.first, nn.Conv2d):
            size = int(np.prod(self.newest))
            x = _standardised(graph, each[0], mean[:size], gain[:size], (1, *self.newest), "newest")
            x = graph.convolution("seen", x, array(self.first.weight), _bias(self.first), 1, 1, relu=True)
            x = graph.node("Flatten", [x], "seen.row")
            if len(each) > 1:
                rest = each[1] if len(each) == 2 else graph.node("Concat", each[1:], "rest", axis=1)
                rest = _standardised(graph, rest, mean[size:], gain[size:], (1, -1), "rest")
                x = graph.node("Concat", [x, rest], "features.row", axis=1)
        else:
            x = _standardised(graph, graph.flat(each, _SIDES[self.kind]), mean, gain, (1, -1), "row")
            if isinstance(self.first, nn.Linear):
                x = graph.linear(x, array(self.first.weight), _bias(self.first), "first")
                x = graph.node("Relu", [x], "hidden")
        return x, graph.linear(x, array(self.head.weight), _bias(self.head), "head")


def statistics(each: Sequence[Activations], side: int) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of the columns of ``rows``; nearly constant columns get a larger deviation."""
    means, deviations = [], []
    for own in each:
        for at in range(0, own.shape[1], _COLUMNS):
            columns = torch.from_numpy(rows([own[:, at : at + _COLUMNS]], side))
            means.append(columns.mean(0))
            deviations.append(columns.std(0))
    deviation = torch.cat(deviations)
    return torch.cat(means), torch.maximum(deviation, 0.05 * deviation.median() + 1e-6)


def _standardised(graph: HeadGraph, x: str, mean: Weights, gain: Weights, shape: tuple[int, ...], name: str) -> str:
    shift = graph.fixed(f"{name}.middle", mean.reshape(shape))
    x = graph.node("Sub", [x, shift], f"{name}.shifted")
    return graph.node("Mul", [x, graph.fixed(f"{name}.gain", gain.reshape(shape))], f"{name}.standard")


def _bias(layer: nn.Conv2d | nn.Linear) -> Weights:
    assert layer.bias is not None
    return array(layer.bias)


def kinds(each: Sequence[Activations]) -> tuple[Kind, ...]:
    """The kinds of heads for such activations; a convolution needs a map with a side above 1."""
    is_map = each[0].ndim == 4 and each[0].shape[2] > 1
    return KINDS if is_map else ("pooled", "hidden")


def train(kind: Kind, each: Sequence[Activations], scores: Weights, seed: int) -> NetworkHead:
    """Train a head of this kind from recorded activations to the full model's ``scores`` ``(n, classes)``."""
    torch.manual_seed(seed)
    predictor = NetworkHead(kind, each, scores.shape[1])
    # Pooled features fit into memory; whole maps stay on the disk.
    inputs = each if kind == "convolution" else [rows(each, _SIDES[kind])]
    targets = torch.softmax(torch.from_numpy(scores) / _TARGET_TEMPERATURE, 1)
    optimiser = torch.optim.AdamW(predictor.parameters(), _RATE, weight_decay=_DECAY)
    each_epoch = -(-len(scores) // _BATCH)
    epochs = max(_EPOCHS, -(-_STEPS // each_epoch))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * each_epoch)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        predictor.train()
        for batch in torch.randperm(len(scores), generator=generator).split(_BATCH):  # type: ignore[no-untyped-call]
            drawn = torch.from_numpy(rows([own[batch.numpy()] for own in inputs], _SIDES[kind]))
            loss = F.cross_entropy(predictor(drawn), targets[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return predictor.eval()
