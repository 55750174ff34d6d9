"""The full model of the CIFAR-10 bundle: two networks that err differently, trained on labels and written as the one
ONNX file that ``build`` takes, beside the images as a user's would be, in a directory for each class.

The one is a ResNet-18 that has seen nothing but these images, pixel for pixel; the other an EfficientNet-Lite0 that has
seen ImageNet before, and sees these enlarged. Of the held images they get 93.3 % and 95.6 % right, and together 96.1.
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
from cachenet.models.data.scenes import SCENES, SEEN
from cachenet.models.export.efficientnet import Lite
from cachenet.models.export.export import export
from cachenet.models.train import pair
from cachenet.models.train.networks import RESNET18, Network, ResNet, Shape
from cachenet.models.train.training import (
    Loss,
    Recipe,
    accuracy,
    fit,
    label_loss,
    labelled,
    passed_down_loss,
    scores,
    sense,
)


@dataclass(frozen=True)
class Lessons:
    """A residual net and the descents that it is trained in; and those of EfficientNet-Lite0, none to do without.
    ``exits``: the residual net learns that it may be asked after each of its blocks."""

    shape: Shape
    recipes: tuple[Recipe, ...]
    lite: Recipe | None = None
    exits: bool = False


CIFAR10 = Lessons(
    RESNET18,
    # Further descents, without the grey squares, are worth more than their epochs added to the first. The last learns
    # to see through a camera: half a pixel off its grid cost the two before it four points in a hundred.
    (
        Recipe(phases=((4, 20), (5, 24), (5, 32)), rate=0.15),
        Recipe(phases=((4, 32),), rate=0.03, warmup=0.05, cutout=0, seed=1),
        Recipe(phases=((2, 24), (7, 32)), rate=0.08, warmup=0.15, cutout=0, sensed=0.5, seed=2),
    ),
    Recipe(
        phases=((6, 32),), rate=0.03, batch=96, decay=1e-4, warmup=0.15, smoothing=0.0, cutout=0, sensed=0.4, seed=11
    ),
)
#: A single ResNet-18 for caches between its layers.
RESNET18_EXITS = Lessons(
    RESNET18,
    (Recipe(phases=((8, 24), (34, 32)), rate=0.2, batch=256, smoothing=0.0, auxiliary=0.3, seed=21),),
    exits=True,
)
#: Pixels that EfficientNet sees a picture with.
_ENLARGED = 128
#: The same path in seconds, good for nothing but a try.
SMOKE = Lessons(Shape(widths=(8, 16), blocks=(1, 1)), (Recipe(phases=((2, 16), (2, 32)), rate=0.05),))


@dataclass(frozen=True)
class Trained:
    """``lite``: beside the residual net, with the share that each has in what both say."""

    resnet: ResNet
    lite: tuple[Lite, pair.Shares] | None


def train(lessons: Lessons, data: Cifar10, work: Path, progress: Progress) -> Trained:
    """Train what is missing in ``work``. Raises ``FetchError`` where ImageNet's weights cannot be had."""
    torch.manual_seed(0)
    resnet = ResNet(lessons.shape, "blocks" if lessons.exits else "stages")
    objective = passed_down_loss if lessons.exits else label_loss
    for number, recipe in enumerate(lessons.recipes, 1):
        title = f"ResNet, {number} of {len(lessons.recipes)}"
        _fit(resnet, recipe, objective(recipe), work / f"full-{number}.pt", data, progress, title)
    if lessons.lite is None:
        return Trained(resnet, None)
    torch.manual_seed(0)
    lite = Lite(imagenet.weights(0), len(cifar10.LABELS), _ENLARGED, INPUT.mean, INPUT.std)
    _fit(lite, lessons.lite, label_loss(lessons.lite), work / "lite.pt", data, progress, "EfficientNet")
    # As they are and as a camera sees them, for that is how they will be asked about.
    images = np.concatenate([data.held.images, sense(data.held.images, np.random.default_rng(0))])
    ours, theirs = (torch.from_numpy(scores(network, images, INPUT)) for network in (lite, resnet))
    return Trained(resnet, (lite, pair.fit(ours, theirs, torch.from_numpy(np.tile(data.held.labels, 2)))))


def _fit(
    network: Network, recipe: Recipe, loss: Loss, path: Path, data: Cifar10, progress: Progress, title: str
) -> None:
    def held(trained: Network) -> dict[str, float]:
        return {"held": accuracy(trained, data.held, INPUT)}

    views, steps = labelled(data.train, recipe), len(data.train) // recipe.batch
    fit(network, INPUT, recipe, views, steps, loss, path, progress, title, held)


def lay_out(trained: Trained, data: Cifar10, out: Path) -> None:
    """Write what ``build`` takes: ``full.onnx``, ``train/`` and ``held/`` with a directory for each class, and
    ``scenes.json``, the labels that come together in the scenes that building may know."""
    properties = {"labels": ",".join(cifar10.LABELS), "input": msgspec.json.encode(INPUT).decode()}
    resnet = trained.resnet.eval()
    if trained.lite is None:
        export(resnet, out / "full.onnx", properties)
    else:
        lite, shares = trained.lite
        pair.write_pair(lite.eval(), resnet, shares, INPUT.side, out / "full.onnx", properties)
    scenes = [[cifar10.LABELS[label] for label in SCENES[number].classes] for number in SEEN]
    (out / "scenes.json").write_bytes(msgspec.json.encode(scenes) + b"\n")
    for name, split in (("train", data.train), ("held", data.held)):
        write_pictures(split, out / name)


def write_pictures(split: Split, directory: Path) -> None:
    """As PNG, in a directory for each class; those that are there stay."""
    for label in cifar10.LABELS:
        (directory / label).mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(split.images, split.labels.tolist(), strict=True)):
        path = directory / cifar10.LABELS[label] / f"{number:05}.png"
        if not path.exists() and not cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise OSError(28, "could not be written", str(path))
