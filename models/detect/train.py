"""Training of a heatmap detector on labelled footage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import Progress

from cachenet.models.build_config import key
from cachenet.models.detect.footage import Block
from cachenet.models.detect.loss import loss
from cachenet.models.detect.network import STRIDE, HeatmapNet, HeatmapShape
from cachenet.models.detect.targets import targets
from cachenet.models.detect.views import TargetsOf, views
from cachenet.models.train.networks import Network
from cachenet.models.train.training import Recipe, fit
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
    evaluate: Callable[[Network], dict[str, float]] | None = None,
) -> tuple[HeatmapNet, list[dict[str, float]]]:
    """Train a detector on the frames of ``block``, or continue from the checkpoint in ``work``.

    Args:
        spec: Input of the detector; the pictures of ``block`` have its size.
        work: Directory of intermediate results of this full model and this footage.
        evaluate: Measures the detector after each epoch; None for no measures.

    Returns:
        The detector, and the measures of each epoch, also of those before an interruption.

    Raises:
        OSError: ``work`` cannot be written.
    """
    torch.manual_seed(seed)
    network = HeatmapNet(shape)
    chosen = recipe(epochs, spec.size, batch, seed)
    checkpoint = work / f"detector-{key(shape, spec, chosen, len(block))}.pt"
    columns, rows = (side // STRIDE for side in spec.size)
    targets_of: TargetsOf = lambda objects, score: targets(objects, score, shape.classes, rows, columns)  # noqa: E731
    batches = views(block, shape.classes, batch, STEPS, targets_of)
    history = fit(network, spec, chosen, batches, STEPS, loss, checkpoint, progress, title, evaluate)
    return network.eval(), history
