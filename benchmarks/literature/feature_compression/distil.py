"""Training of an autoencoder in a split model, step by step as AECNN: attention, then features, then logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.literature.feature_compression.autoencoder import Autoencoder, ChannelAttention
from benchmarks.literature.feature_compression.split_model import SplitModel
from benchmarks.literature.training import fit
from cachenet.models.train.networks import Network
from cachenet.models.train.training import Batch, Loss, Recipe, bf16_autocast, normalise
from cachenet.shared.inference.image import Input

Images = npt.NDArray[np.uint8]
Augment = Callable[[Images, np.random.Generator], Images]
#: Weight of the mean attention in the training of attention: unimportant channels get small weights.
_SPARSITY = 0.3
#: Temperature of the distillation.
_TEMPERATURE = 2.0
_RECIPE = Recipe(phases=((1, 32),), rate=3e-3, decay=1e-5, warmup=0.1, optimiser="adamw")


@dataclass(frozen=True)
class Schedule:
    """Training pictures and the length of each step.

    Attributes:
        split: The split model.
        images: Training pictures ``(n, h, w, 3)`` uint8 RGB.
        spec: Preprocessing of the model.
        augment: Change of a batch of pictures; None for none.
        batch: Pictures of a batch.
        steps: Batches of an epoch.
        epochs: Epochs for attention, features and logits.
    """

    split: SplitModel
    images: Images
    spec: Input
    augment: Augment | None
    batch: int
    steps: int
    epochs: tuple[int, int, int]

    @cached_property
    def logits(self) -> Tensor:
        """The full model's logits of the pictures without augmentation."""
        return logits_of(self.split, self.images, self.spec)

    def batches(self, _number: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Pictures of an epoch with the full model's logits."""
        for _ in range(self.steps):
            rows = rng.choice(len(self.images), self.batch, replace=len(self.images) < self.batch)
            if self.augment is None:
                yield self.images[rows], self.logits[rows]
            else:
                images = self.augment(self.images[rows], rng)
                yield images, logits_of(self.split, images, self.spec)


class _Attended(Network):
    """The split model with attention at its site. Heads: mean attention ``(n,)`` and logits."""

    def __init__(self, split: SplitModel) -> None:
        super().__init__()
        self._parts = split.parts  # a tuple, so that their fixed weights are not in checkpoints
        self.attention = ChannelAttention(split.shape[0])

    def heads(self, x: Tensor) -> list[Tensor]:
        device, server = self._parts
        with torch.no_grad():
            features = device(x)
        weights = self.attention(features)
        return [weights.mean(1), server(features * weights[:, :, None, None])]


class _Bottleneck(Network):
    """The split model with an autoencoder at its site. Each picture gets a random level in training.

    Heads: the rate penalty ``(n,)``, and logits; or the relative squared error of the features ``(n,)`` in place of
    logits.
    """

    def __init__(self, split: SplitModel, autoencoder: Autoencoder, penalties: Tensor, scale: float) -> None:
        super().__init__()
        self._parts = split.parts
        self.autoencoder = autoencoder
        self._penalties, self._scale, self.matching = penalties, scale, False

    def heads(self, x: Tensor) -> list[Tensor]:
        device, server = self._parts
        with torch.no_grad():
            features = device(x).float()
        level = torch.randint(len(self._penalties), (len(x),))
        with torch.autocast(x.device.type, enabled=False):
            integers = self.autoencoder.encode(features, level)
            restored = self.autoencoder.decode(integers, level)
            penalty = self._penalties[level] * self.autoencoder.bits(integers, level)
        if self.matching:
            return [penalty, (restored - features).square().mean((1, 2, 3)) / self._scale]
        return [penalty, server(restored)]


def attention(schedule: Schedule, checkpoint: Path, say: Callable[[str], None]) -> Tensor:
    """Mean attention of each channel ``(channels,)`` after a short training."""
    torch.manual_seed(0)
    split = schedule.split
    network = _Attended(split)

    def loss(heads: list[Tensor], teacher: Tensor) -> Tensor:
        return _divergence(heads[1], teacher) + _SPARSITY * heads[0].mean()

    _fit(network, schedule, loss, checkpoint, schedule.epochs[0], "attention", say)
    with torch.no_grad():
        features = features_of(split, schedule.images[: 4 * schedule.batch], schedule.spec)
        found: Tensor = network.attention(features).mean(0)
    return found


def train(
    schedule: Schedule,
    autoencoder: Autoencoder,
    penalties: Tensor,
    work: Path,
    name: str,
    say: Callable[[str], None],
) -> None:
    """Train ``autoencoder`` in place, first to restore features, then to keep the logits.

    Args:
        penalties: Weight of a bit at each level, the lowest rate first; zeros for a fixed rate.
        work: Directory of the checkpoints.
        name: Name of the checkpoints.
    """
    split = schedule.split
    scale = float(features_of(split, schedule.images[: schedule.batch], schedule.spec).var())
    network = _Bottleneck(split, autoencoder, penalties, scale)
    network.matching = True
    # Without a rate penalty there is less to learn.
    epochs = schedule.epochs[2] if penalties.any() else max(1, schedule.epochs[2] // 2)
    losses: list[Loss] = [
        lambda heads, _teacher: heads[0].mean() + heads[1].mean(),
        lambda heads, teacher: heads[0].mean() + _divergence(heads[1], teacher),
    ]
    for count, title, loss in zip((schedule.epochs[1], epochs), ("features", "logits"), losses, strict=True):
        _fit(network, schedule, loss, work / f"{name}-{title}.pt", count, f"{name}, {title}", say)
        network.matching = False


def features_of(split: SplitModel, images: Images, spec: Input, batch: int = 250) -> Tensor:
    """Features ``(n, channels, h, w)`` of pictures, as the device computes them."""
    with torch.no_grad():
        parts = [split.parts[0](normalise(images[at : at + batch], spec)) for at in range(0, len(images), batch)]
    return torch.cat(parts)


def logits_of(split: SplitModel, images: Images, spec: Input, batch: int = 250) -> Tensor:
    """The full model's logits ``(n, classes)`` of pictures."""
    parts = []
    with torch.no_grad():
        for at in range(0, len(images), batch):
            with bf16_autocast():
                parts.append(split.parts[1](split.parts[0](normalise(images[at : at + batch], spec))).float())
    return torch.cat(parts)


def _divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the teacher (G. Hinton et al., arXiv 1503.02531)."""
    target, own = (F.log_softmax(one / _TEMPERATURE, 1) for one in (teacher, logits))
    return _TEMPERATURE**2 * F.kl_div(own, target, reduction="batchmean", log_target=True)


def _fit(
    network: Network,
    schedule: Schedule,
    loss: Loss,
    checkpoint: Path,
    epochs: int,
    title: str,
    say: Callable[[str], None],
) -> None:
    recipe = replace(_RECIPE, phases=((epochs, schedule.spec.side),), batch=schedule.batch)
    fit(network, schedule.spec, recipe, schedule.batches, schedule.steps, loss, checkpoint, title, say)
    network.eval()
