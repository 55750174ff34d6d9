"""Training of the arms that are compared: same network, pictures, teacher, and number and size of batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.literature.converting_autoencoder.network import ConvertingAutoencoder
from benchmarks.literature.training import fit
from cachenet.models.build_config import key
from cachenet.models.train.distill import Teacher, distillation_loss
from cachenet.models.train.networks import Network, ResNet, Shape
from cachenet.models.train.training import Loss, Recipe, normalise
from cachenet.shared.bundle.manifest import digest
from cachenet.shared.inference.image import Input, Size

#: ``control``: distillation in all steps. ``converting``: an autoencoder from pictures to representative ones, then
#: without decoder distilled. ``short``: that distillation alone, without an autoencoder before it. ``auxiliary``:
#: distillation in all steps, with the decoder's error as a second loss.
Arm = Literal["control", "converting", "short", "auxiliary"]
ARMS: tuple[Arm, ...] = get_args(Arm)
#: Weight of the decoder's error in the arm ``auxiliary``.
_WEIGHT = 1.0
#: Weight decay: the builder's, of general models.
_DECAY = 1e-4


@dataclass(frozen=True)
class TrainingSetup:
    """What the arms learn from.

    Attributes:
        name: Name of the data.
        shape: Architecture of the classifier.
        spec: Its preprocessing.
        teacher: The pictures in views, and the full model's logits with the number of the representative picture as
            one more column ``(n, classes + 1)``.
        targets: The representative pictures ``(r, h, w, 3)`` uint8 RGB.
        convert: Epochs and picture sizes that the arm ``converting`` spends on the autoencoder.
        distil: Epochs and picture sizes of its distillation.
        batch: Pictures of a batch.
        rate: Peak learning rate.
    """

    name: str
    shape: Shape
    spec: Input
    teacher: Teacher
    targets: npt.NDArray[np.uint8]
    convert: tuple[tuple[int, Size], ...]
    distil: tuple[tuple[int, Size], ...]
    batch: int = 128
    rate: float = 0.2


def train(arm: Arm, setup: TrainingSetup, seed: int, work: Path, say: Callable[[str], None]) -> ResNet:
    """Train one arm, or continue from its checkpoints in ``work``. All arms of a seed start from the same weights."""
    torch.manual_seed(seed)
    classifier = ResNet(setup.shape)
    whole = Recipe(_joined(setup.convert, setup.distil), setup.rate, setup.batch, _DECAY, seed=seed)
    soft = _distillation(setup.shape.classes)
    if arm in ("control", "short"):
        recipe = whole if arm == "control" else replace(whole, phases=setup.distil)
        _fit(classifier, setup, recipe, soft, work, f"{setup.name} {arm} {seed}", say)
        return classifier.eval()
    both = ConvertingAutoencoder(classifier)
    convert = _converting(setup)
    if arm == "auxiliary":
        _fit(both, setup, whole, _sum(soft, convert), work, f"{setup.name} {arm} {seed}", say)
        return classifier.eval()
    _fit(both, setup, replace(whole, phases=setup.convert), convert, work, f"{setup.name} {arm} {seed} 1", say)
    recipe = replace(whole, phases=setup.distil)
    _fit(classifier, setup, recipe, soft, work, f"{setup.name} {arm} {seed} 2", say)
    return classifier.eval()


def _joined(first: tuple[tuple[int, Size], ...], second: tuple[tuple[int, Size], ...]) -> tuple[tuple[int, Size], ...]:
    """The epochs of both, smaller pictures first."""
    epochs: dict[Size, int] = {}
    for count, size in (*first, *second):
        epochs[size] = epochs.get(size, 0) + count
    return tuple((count, size) for size, count in sorted(epochs.items()))


def _fit(
    network: Network,
    setup: TrainingSetup,
    recipe: Recipe,
    loss: Loss,
    work: Path,
    title: str,
    say: Callable[[str], None],
) -> None:
    """Train ``network`` in place; see ``fit``."""
    name = f"{title.replace(' ', '-')}-{key(setup.shape, digest(setup.targets.tobytes()), recipe)}.pt"
    steps = setup.teacher.steps(recipe.batch)
    fit(network, setup.spec, recipe, setup.teacher.epoch(recipe.batch), steps, loss, work / name, title, say)


def _distillation(classes: int) -> Loss:
    loss = distillation_loss()
    return lambda heads, target: loss(heads, target[:, :classes])


def _converting(setup: TrainingSetup) -> Loss:
    """Mean squared error between the decoder's picture and the representative one, scaled to its size."""
    targets, classes = normalise(setup.targets, setup.spec), setup.shape.classes

    def loss(heads: list[Tensor], target: Tensor) -> Tensor:
        wanted = targets[target[:, classes].long()]
        if wanted.shape[-2:] != heads[0].shape[-2:]:
            wanted = F.interpolate(wanted, size=heads[0].shape[-2:], mode="bilinear", antialias=True)
        return F.mse_loss(heads[0], wanted)

    return loss


def _sum(soft: Loss, convert: Loss) -> Loss:
    return lambda heads, target: soft(heads, target) + _WEIGHT * convert(heads, target)
