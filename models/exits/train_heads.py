"""Learned caches: small networks from activations to what the full model says (A. Balasubramanian et al., "Accelerating
deep learning inference via learned caches", arXiv 2101.07344, section 4): pooled, fully connected and convolutional.

They are taught by the full model's own scores, so frames need no labels. What the paper calls a selector, the test
whether a prediction is to be trusted, is its calibrated risk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cachenet.models.exits.activations import Activations
from cachenet.models.exits.cache import HeadGraph, rows
from cachenet.models.export.graph import Weights
from cachenet.models.train.networks import array

Kind = Literal["pooled", "hidden", "convolution"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: Places a side that each kind sees, of a map.
_SIDES: dict[Kind, int] = {"pooled": 1, "hidden": 2, "convolution": 4}
_HIDDEN, _CHANNELS = 64, 32
#: At least so many epochs, and so many steps where frames are few.
_EPOCHS, _STEPS = 12, 600
#: Channels, or dimensions of a vector, that are looked at together.
_COLUMNS = 64
_BATCH, _RATE, _DECAY = 128, 2e-3, 0.05
#: Of the full model's scores: what it thinks of the other labels is part of the lesson.
_SOFTNESS = 2.0


class Predictor(nn.Module):
    """From recorded activations to scores. Its input is ``rows``, standardised: maps first as they were recorded, then
    vectors."""

    def __init__(self, kind: Kind, each: Sequence[Activations], classes: int) -> None:
        super().__init__()
        self.kind = kind
        self.middle, self.spread = standard(each, _SIDES[kind])
        dimensions = len(self.middle)
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
        y: Tensor = self.head(F.dropout(self.features((x - self.middle) / self.spread), 0.2, self.training))
        return y

    def features(self, x: Tensor) -> Tensor:
        """What the head sees."""
        if self.kind == "hidden":
            return F.relu(self.first(x))
        if self.kind == "convolution":
            size = int(np.prod(self.newest))
            seen = F.relu(self.first(x[:, :size].view(-1, *self.newest)))
            return torch.cat([seen.flatten(1), x[:, size:]], 1)
        return x

    def scores(self, each: Sequence[Activations]) -> Weights:
        """``(n, classes)`` of recorded activations."""
        with torch.no_grad():
            return array(self.eval()(torch.from_numpy(rows(each, _SIDES[self.kind]))))

    def write(self, writer: HeadGraph) -> tuple[str, str]:
        """Its nodes; what they call the features and the scores."""
        middle, gain = array(self.middle), array(1 / self.spread)
        each = writer.grids()
        if isinstance(self.first, nn.Conv2d):
            size = int(np.prod(self.newest))
            x = _standardised(writer, each[0], middle[:size], gain[:size], (1, *self.newest), "newest")
            x = writer.convolution("seen", x, array(self.first.weight), _bias(self.first), 1, 1, relu=True)
            x = writer.node("Flatten", [x], "seen.row")
            if len(each) > 1:
                rest = each[1] if len(each) == 2 else writer.node("Concat", each[1:], "rest", axis=1)
                rest = _standardised(writer, rest, middle[size:], gain[size:], (1, -1), "rest")
                x = writer.node("Concat", [x, rest], "features.row", axis=1)
        else:
            x = _standardised(writer, writer.flat(each, _SIDES[self.kind]), middle, gain, (1, -1), "row")
            if isinstance(self.first, nn.Linear):
                x = writer.linear(x, array(self.first.weight), _bias(self.first), "first")
                x = writer.node("Relu", [x], "hidden")
        return x, writer.linear(x, array(self.head.weight), _bias(self.head), "head")


def standard(each: Sequence[Activations], side: int) -> tuple[Tensor, Tensor]:
    """Means and deviations of the columns of ``rows``, of some at a time; what hardly ever changes is not blown up."""
    means, deviations = [], []
    for own in each:
        for at in range(0, own.shape[1], _COLUMNS):
            seen = torch.from_numpy(rows([own[:, at : at + _COLUMNS]], side))
            means.append(seen.mean(0))
            deviations.append(seen.std(0))
    spread = torch.cat(deviations)
    return torch.cat(means), torch.maximum(spread, 0.05 * spread.median() + 1e-6)


def _standardised(writer: HeadGraph, x: str, middle: Weights, gain: Weights, shape: tuple[int, ...], name: str) -> str:
    shift = writer.fixed(f"{name}.middle", middle.reshape(shape))
    x = writer.node("Sub", [x, shift], f"{name}.shifted")
    return writer.node("Mul", [x, writer.fixed(f"{name}.gain", gain.reshape(shape))], f"{name}.standard")


def _bias(layer: nn.Conv2d | nn.Linear) -> Weights:
    assert layer.bias is not None
    return array(layer.bias)


def kinds(each: Sequence[Activations]) -> tuple[Kind, ...]:
    """Those that there can be for such activations: nothing is convolved that is no map, or has no places."""
    is_map = each[0].ndim == 4 and each[0].shape[2] > 1
    return KINDS if is_map else ("pooled", "hidden")


def train(kind: Kind, each: Sequence[Activations], scores: Weights, seed: int) -> Predictor:
    """Teach a cache of this kind from recorded activations what the full model's ``scores`` ``(n, classes)`` are."""
    torch.manual_seed(seed)
    predictor = Predictor(kind, each, scores.shape[1])
    # What is averaged down is small enough to be held; maps as they are stay on the disk.
    inputs = each if kind == "convolution" else [rows(each, _SIDES[kind])]
    targets = torch.softmax(torch.from_numpy(scores) / _SOFTNESS, 1)
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
