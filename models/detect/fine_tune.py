"""Fine-tuning of a given detector on the footage of one place, with the full model's objects as labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from cachenet.models.build_config import key
from cachenet.models.detect import agreement, loss
from cachenet.models.detect.aligned_loss import aligned_loss
from cachenet.models.detect.augment import view
from cachenet.models.detect.cells import cells
from cachenet.models.detect.footage import Block
from cachenet.models.detect.targets import targets
from cachenet.models.export.detector import DetectorModel
from cachenet.models.train.networks import Network
from cachenet.models.train.onnx_network import NotTrainable, OnnxNetwork
from cachenet.models.train.training import Batch, Epoch, Recipe, fit
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
    rate: float = _RATE,
) -> tuple[DetectorModel, list[dict[str, float]]]:
    """Train on ``learn``, and return the detector of the epoch with the greatest F1 on ``tune``.

    Args:
        model: The detector; the pictures of the blocks have the size of its input, and its labels are theirs.
        work: Directory of the checkpoint.

    Returns:
        The detector, and the F1 on ``tune`` after each epoch.

    Raises:
        NotTrainable: The detector has an operator or a decoder that cannot be trained.
        OSError: ``work`` cannot be written.
    """
    if model.input.colour == "grey":
        raise NotTrainable("a detector of grey pictures cannot be trained")
    network, batches, measure = _training(model, learn)
    recipe = Recipe(((epochs, model.input.size),), rate, BATCH, _DECAY, warmup=0.1, optimiser="adamw", seed=seed)

    def evaluate(network: Network) -> dict[str, float]:
        assert isinstance(network, OnnxNetwork)
        found = agreement.run(_trained(model, network).detector(torch.get_num_threads()), tune)
        chosen = agreement.best(found, tune.reference)
        return {"f1": chosen.f1, "score": chosen.score}

    checkpoint = work / f"fine-tuned-{key(recipe, len(learn))}.pt"
    history = fit(
        network, model.input, recipe, batches, STEPS, measure, checkpoint, progress, title, evaluate, keep_best="f1"
    )
    return _trained(model, network), history


def _trained(model: DetectorModel, network: OnnxNetwork) -> DetectorModel:
    return replace(model, graph=network.model())


def _training(
    model: DetectorModel, learn: Block
) -> tuple[OnnxNetwork, Epoch, Callable[[list[Tensor], Tensor], Tensor]]:
    """The network, its batches and its loss."""
    classes, size = len(model.labels), model.input.size
    if model.decoder.kind == "heatmap":
        network = OnnxNetwork(model.graph, "boxes", "logits")
        rows, columns = (side // 8 for side in size[::-1])

        def heat(objects: Detections) -> np.ndarray:
            return targets(objects, learn.score, classes, rows, columns)

        return (
            network,
            _views(learn, classes, heat),
            lambda heads, target: loss.loss([torch.cat([head[:, 0] for head in heads], 1)], target),
        )
    network = OnnxNetwork(model.graph)
    scale = np.tile(np.array(size, np.float32), 2)

    def rows_of(objects: Detections) -> np.ndarray:
        table = np.full((_OBJECTS, 6), -1, np.float32)
        some = objects.take(slice(0, _OBJECTS))
        table[: len(some)] = np.c_[some.boxes * scale, some.labels, some.scores >= learn.score]
        return table

    def measured(heads: list[Tensor], target: Tensor) -> Tensor:
        present = [one[one[:, 4] >= 0] for one in target]
        found = cells(heads, model.decoder, size)
        return aligned_loss(
            found,
            [one[:, :4] for one in present],
            [one[:, 4].long() for one in present],
            [one[:, 5] > 0 for one in present],
        )

    return network, _views(learn, classes, rows_of), measured


def _views(block: Block, classes: int, target: Callable[[Detections], np.ndarray]) -> Epoch:
    def epoch(_number: int, rng: np.random.Generator) -> Iterator[Batch]:
        for _ in range(STEPS):
            chosen = rng.integers(0, len(block), BATCH).tolist()
            made = [view(block.pictures[row], block.objects[row], classes, rng) for row in chosen]
            yield np.stack([image for image, _ in made]), torch.from_numpy(np.stack([target(one) for _, one in made]))

    return epoch
