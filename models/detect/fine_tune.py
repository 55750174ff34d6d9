"""Fine-tuning of a given detector on the footage of one place, with the full model's objects as labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress

from cachenet.models.build_config import key
from cachenet.models.detect import agreement
from cachenet.models.detect.aligned_loss import aligned_loss
from cachenet.models.detect.cells import cells
from cachenet.models.detect.export import HEADS
from cachenet.models.detect.footage import Block
from cachenet.models.detect.loss import loss as heatmap_loss
from cachenet.models.detect.network import STRIDE
from cachenet.models.detect.targets import targets
from cachenet.models.detect.views import TargetsOf, views
from cachenet.models.export.detector import DetectorModel
from cachenet.models.train.networks import Network
from cachenet.models.train.onnx_network import NotTrainable, OnnxNetwork
from cachenet.models.train.training import Loss, Recipe, fit
from cachenet.shared.bundle.manifest import digest
from cachenet.shared.cascade.detect.detections import Detections

#: Steps of an epoch; after each the detector is compared on the tuning block.
STEPS = 50
#: Frames of a step.
BATCH = 8
#: Epochs.
EPOCHS = 24
#: Peak learning rate and weight decay of AdamW: small, because the detector knows its objects already.
_RATE, _DECAY = 5e-4, 1e-4
#: Most objects of a picture in the loss.
_OBJECTS = 64


def fine_tune(
    model: DetectorModel,
    learn: Block,
    tune: Block,
    work: Path,
    progress: Progress,
    title: str,
    epochs: int = EPOCHS,
    seed: int = 0,
    on_epoch: Callable[[DetectorModel], dict[str, float]] | None = None,
) -> tuple[DetectorModel, list[dict[str, float]]]:
    """Train ``model`` on ``learn``, or continue from the checkpoint in ``work``.

    Args:
        model: The detector; the pictures of the blocks have the size of its input, and its labels are theirs.
        tune: Footage that tells when to stop: the detector of an earlier epoch is returned where it was much better.
        work: Directory of intermediate results of this full model and this footage.
        on_epoch: Measures the detector after each epoch; None for nothing but F1 on ``tune``.

    Returns:
        The detector, and the measures of each epoch, also of those before an interruption: ``f1`` on ``tune``, and
        what ``on_epoch`` returned.

    Raises:
        NotTrainable: The detector cannot be trained.
        OSError: ``work`` cannot be written.
    """
    network, targets_of, loss = training(model)
    recipe = Recipe(((epochs, model.input.size),), _RATE, BATCH, _DECAY, warmup=0.1, optimiser="adamw", seed=seed)

    def evaluate(network: Network) -> dict[str, float]:
        assert isinstance(network, OnnxNetwork)
        present = agreement.lowered(replace(model, graph=network.model()))
        found = agreement.run(present.detector(torch.get_num_threads()), tune)
        own = {"f1": agreement.best(found, tune.reference).f1}
        return own if on_epoch is None else own | on_epoch(present)

    checkpoint = work / f"fine-tuned-{key(recipe, len(learn), digest(model.graph.SerializeToString()))}.pt"
    batches = views(learn, len(model.labels), BATCH, STEPS, targets_of)
    history = fit(
        network, model.input, recipe, batches, STEPS, loss, checkpoint, progress, title, evaluate, keep_best="f1"
    )
    return replace(model, graph=network.model()), history


def training(model: DetectorModel) -> tuple[OnnxNetwork, TargetsOf, Loss]:
    """The network of a detector, the targets of a frame's objects with their threshold, and the loss.

    Raises:
        NotTrainable: The detector has an operator or a decoder that cannot be trained.
    """
    if model.input.colour == "grey":
        raise NotTrainable("a detector of grey pictures cannot be trained")
    size, classes = model.input.size, len(model.labels)
    if model.decoder.kind == "heatmap":
        if tuple(model.decoder.classes) != tuple(range(classes)):
            raise NotTrainable("a heatmap detector with other labels cannot be trained")
        columns, rows = (side // STRIDE for side in size)
        network = OnnxNetwork(model.graph, *HEADS)
        return (
            network,
            lambda objects, score: targets(objects, score, classes, rows, columns),
            lambda heads, target: heatmap_loss([torch.cat([head[:, 0] for head in heads], 1)], target),
        )
    network = OnnxNetwork(model.graph)
    with torch.no_grad():  # an output that does not fit is found here
        width, height = size
        cells(network.heads(torch.zeros(1, 3, height, width)), model.decoder, size)
    return (
        network,
        lambda objects, score: _table(objects, score, size),
        lambda heads, target: aligned_loss(cells(heads, model.decoder, size), target),
    )


def _table(objects: Detections, score: float, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Objects as ``aligned_loss`` takes them ``(_OBJECTS, 6)``."""
    table = np.full((_OBJECTS, 6), -1, np.float32)
    some = objects.take(slice(0, _OBJECTS))
    scale = np.array([*size, *size], np.float32)
    table[: len(some)] = np.c_[some.boxes * scale, some.labels, some.scores >= score]
    return table
