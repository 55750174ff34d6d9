"""Training of a heatmap detector on labelled footage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from cachenet.models.build_config import key
from cachenet.models.detect.augment import view
from cachenet.models.detect.footage import Block
from cachenet.models.detect.loss import loss
from cachenet.models.detect.network import STRIDE, HeatmapNet, HeatmapShape
from cachenet.models.detect.targets import targets
from cachenet.models.train.training import Batch, Epoch, Recipe, fit
from cachenet.shared.inference.image import Input

#: Steps of an epoch, which is the distance of two checkpoints; at most one is lost when a build is interrupted.
STEPS = 50
#: Frames of a step.
BATCH = 16
#: Peak learning rate and weight decay of AdamW.
_RATE, _DECAY = 4e-3, 1e-3


def recipe(epochs: int, size: tuple[int, int], batch: int, seed: int) -> Recipe:
    """The hyperparameters of a training of ``epochs`` times ``STEPS`` steps.

    Args:
        size: Width and height of the input, pixels.
    """
    return Recipe(((epochs, size),), _RATE, batch, _DECAY, warmup=0.15, optimiser="adamw", seed=seed)


def views(block: Block, classes: int, batch: int) -> Epoch:
    """Random views of random frames of ``block``, with their targets."""
    height, width = block.pictures.shape[1:3]
    rows, columns = height // STRIDE, width // STRIDE

    def epoch(_number: int, rng: np.random.Generator) -> Iterator[Batch]:
        for _ in range(STEPS):
            chosen = rng.integers(0, len(block), batch).tolist()
            made = [view(block.pictures[row], block.objects[row], classes, rng) for row in chosen]
            wanted = [targets(objects, block.score, classes, rows, columns) for _, objects in made]
            yield np.stack([image for image, _ in made]), torch.from_numpy(np.stack(wanted))

    return epoch


def train(
    shape: HeatmapShape,
    spec: Input,
    block: Block,
    epochs: int,
    work: Path,
    progress: Progress,
    title: str,
    batch: int = BATCH,
    seed: int = 0,
) -> HeatmapNet:
    """Train a detector on the frames of ``block``, or continue from the checkpoint in ``work``.

    Args:
        spec: Input of the detector; the pictures of ``block`` have its size.
        work: Directory of intermediate results of this full model and this footage.

    Raises:
        OSError: ``work`` cannot be written.
    """
    torch.manual_seed(seed)
    network = HeatmapNet(shape)
    chosen = recipe(epochs, spec.size, batch, seed)
    checkpoint = work / f"detector-{key(shape, spec, chosen, len(block))}.pt"
    fit(network, spec, chosen, views(block, shape.classes, batch), STEPS, loss, checkpoint, progress, title)
    return network.eval()
