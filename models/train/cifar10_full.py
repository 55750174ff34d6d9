"""Training of the CIFAR-10 bundle's full model, and the files that ``build`` takes.

The full model is an ensemble of a ResNet-18, trained on these images alone, and an EfficientNet-Lite0, pretrained on
ImageNet, which sees the images enlarged. Accuracy on the held-out images: 93.3 % and 95.6 %, together 96.1 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import torch
from rich.progress import Progress

from cachenet.models.data import cifar10, imagenet
from cachenet.models.data.cifar10 import INPUT, Cifar10, Split
from cachenet.models.data.scenes import KNOWN, SCENES
from cachenet.models.export.efficientnet import Lite
from cachenet.models.export.export import export
from cachenet.models.train import pair
from cachenet.models.train.networks import RESNET18, Network, ResNet, Shape
from cachenet.models.train.training import (
    Loss,
    Recipe,
    accuracy,
    augmented_batches,
    camera_augment,
    fit,
    label_loss,
    scores,
    self_distillation_loss,
)


@dataclass(frozen=True)
class FullModelConfig:
    """How a full model is trained."""

    shape: Shape  # Architecture of the residual network
    recipes: tuple[Recipe, ...]  # Its training runs, one after the other
    lite: Recipe | None = None  # Training run of EfficientNet-Lite0; None for the residual network alone
    #: Whether the residual network is trained with an auxiliary head after each block, for early exits.
    exits: bool = False


CIFAR10 = FullModelConfig(
    RESNET18,
    # Further runs without cutout are worth more than as many epochs in the first. The last one has camera augmentation:
    # a shift of half a pixel cost the two before it 4 % accuracy.
    (
        Recipe(phases=((4, 20), (5, 24), (5, 32)), rate=0.15),
        Recipe(phases=((4, 32),), rate=0.03, warmup=0.05, cutout=0, seed=1),
        Recipe(phases=((2, 24), (7, 32)), rate=0.08, warmup=0.15, cutout=0, camera_share=0.5, seed=2),
    ),
    Recipe(
        phases=((6, 32),),
        rate=0.03,
        batch=96,
        decay=1e-4,
        warmup=0.15,
        smoothing=0.0,
        cutout=0,
        camera_share=0.4,
        seed=11,
    ),
)
#: A single ResNet-18 for early exits.
RESNET18_EXITS = FullModelConfig(
    RESNET18,
    (Recipe(phases=((8, 24), (34, 32)), rate=0.2, batch=256, smoothing=0.0, auxiliary=0.3, seed=21),),
    exits=True,
)
#: Side to which EfficientNet enlarges an image, pixels.
_ENLARGED = 128
#: A tiny network, trained in seconds, to test the path.
SMOKE = FullModelConfig(Shape(widths=(8, 16), blocks=(1, 1)), (Recipe(phases=((2, 16), (2, 32)), rate=0.05),))


@dataclass(frozen=True)
class Trained:
    """The residual network; and EfficientNet-Lite with the weight of each network's scores."""

    resnet: ResNet
    lite: tuple[Lite, pair.Shares] | None


def train(config: FullModelConfig, data: Cifar10, work: Path, progress: Progress) -> Trained:
    """Train the networks, continuing from the checkpoints in ``work``. Raises ``FetchError``."""
    torch.manual_seed(0)
    resnet = ResNet(config.shape, "blocks" if config.exits else "stages")
    objective = self_distillation_loss if config.exits else label_loss
    for number, recipe in enumerate(config.recipes, 1):
        title = f"ResNet, {number} of {len(config.recipes)}"
        _fit(resnet, recipe, objective(recipe), work / f"full-{number}.pt", data, progress, title)
    if config.lite is None:
        return Trained(resnet, None)
    torch.manual_seed(0)
    lite = Lite(imagenet.weights(0), len(cifar10.LABELS), _ENLARGED, INPUT.mean, INPUT.std)
    _fit(lite, config.lite, label_loss(config.lite), work / "lite.pt", data, progress, "EfficientNet")
    images = np.concatenate([data.held_out.images, camera_augment(data.held_out.images, np.random.default_rng(0))])
    first, second = (torch.from_numpy(scores(network, images, INPUT)) for network in (lite, resnet))
    return Trained(resnet, (lite, pair.fit(first, second, torch.from_numpy(np.tile(data.held_out.labels, 2)))))


def _fit(
    network: Network, recipe: Recipe, loss: Loss, path: Path, data: Cifar10, progress: Progress, title: str
) -> None:
    def evaluate(trained: Network) -> dict[str, float]:
        return {"held": accuracy(trained, data.held_out, INPUT)}

    batches, steps = augmented_batches(data.train, recipe), len(data.train) // recipe.batch
    fit(network, INPUT, recipe, batches, steps, loss, path, progress, title, evaluate)


def write_build_inputs(trained: Trained, data: Cifar10, out: Path) -> None:
    """Write the files that ``build`` takes: ``full.onnx``, ``scenes.json``, and ``train/`` and ``held/``.

    ``scenes.json`` holds the labels of the known scenes. The image directories have a subdirectory for each class.
    """
    properties = {"labels": ",".join(cifar10.LABELS), "input": msgspec.json.encode(INPUT).decode()}
    resnet = trained.resnet.eval()
    if trained.lite is None:
        export(resnet, out / "full.onnx", properties)
    else:
        lite, shares = trained.lite
        pair.write_pair(lite.eval(), resnet, shares, INPUT.side, out / "full.onnx", properties)
    scenes = [[cifar10.LABELS[label] for label in SCENES[number].classes] for number in KNOWN]
    (out / "scenes.json").write_bytes(msgspec.json.encode(scenes) + b"\n")
    for name, split in (("train", data.train), ("held", data.held_out)):
        write_pictures(split, out / name)


def write_pictures(split: Split, directory: Path) -> None:
    """Write the images as PNG into a subdirectory for each class; keep existing files."""
    for label in cifar10.LABELS:
        (directory / label).mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
        path = directory / cifar10.LABELS[label] / f"{number:05}.png"
        if not path.exists() and not cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise OSError(28, "could not be written", str(path))
