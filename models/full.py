"""The full model of the CIFAR-10 bundle: trained on labels, written as the ONNX file that ``build`` takes, beside the
images as a user's would be, in a directory for each class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import torch
from rich.progress import Progress

from models import cifar10
from models.cifar10 import INPUT, Cifar10, Split
from models.export import export
from models.networks import RESNET18, ResNet, Shape
from models.restore import restore
from models.scenes import SCENES, SEEN
from models.training import Recipe, accuracy, fit, label_loss, labelled, normalise


@dataclass(frozen=True)
class Lessons:
    """A network and the descents that it is trained in."""

    shape: Shape
    recipes: tuple[Recipe, ...]


CIFAR10 = Lessons(
    RESNET18,
    # Further descents, without the grey squares, are worth more than their epochs added to the first. The last learns
    # to see through a camera: half a pixel off its grid cost the two before it four points in a hundred.
    (
        Recipe(phases=((4, 20), (5, 24), (5, 32)), rate=0.15),
        Recipe(phases=((4, 32),), rate=0.03, warmup=0.05, cutout=0, seed=1),
        Recipe(phases=((2, 24), (7, 32)), rate=0.08, warmup=0.15, cutout=0, sensed=0.5, seed=2),
    ),
)
#: For a network that is trained already. A descent from a high rate forgets as much as it learns (from 93.3 % by way of
#: 73.8 % to 93.8 % on held images, in 13 epochs); the mean of a walk at a constant rate got to 94.4 % in 11.
FURTHER = (
    Recipe(phases=((11, 32),), rate=0.04, warmup=0.0, cutout=8, sensed=0.3, auxiliary=0.0, averaged=True, seed=5),
    Recipe(phases=((3, 32),), rate=0.015, warmup=0.0, cutout=0, sensed=0.3, auxiliary=0.0, seed=6),
)
#: The same path in seconds, good for nothing but a try.
SMOKE = Lessons(Shape(widths=(8, 16), blocks=(1, 1)), (Recipe(phases=((2, 16), (2, 32)), rate=0.05),))


def train(lessons: Lessons, data: Cifar10, work: Path, progress: Progress, start: Path | None = None) -> ResNet:
    """Train what is missing in ``work``; ``start``: go on from this network, an ONNX file of ours, by ``FURTHER``.
    Raises ``RestoreError`` if it is none."""
    torch.manual_seed(0)
    recipes = lessons.recipes
    if start is None:
        network = ResNet(lessons.shape, auxiliary=True)
    else:
        network, recipes = restore(start, normalise(data.train.images[:500], INPUT)), FURTHER
    for number, recipe in enumerate(recipes, 1):
        fit(
            network,
            INPUT,
            recipe,
            labelled(data.train, recipe),
            len(data.train) // recipe.batch,
            label_loss(recipe),
            work / f"{'full' if start is None else 'further'}-{number}.pt",
            progress,
            f"full, {number} of {len(recipes)}",
            lambda trained: {"held": accuracy(trained, data.held, INPUT)},
        )
    return network


def lay_out(network: ResNet, data: Cifar10, out: Path) -> None:
    """Write what ``build`` takes: ``full.onnx``, ``train/`` and ``held/`` with a directory for each class, and
    ``scenes.json``, the labels that come together in the scenes that building may know."""
    properties = {"labels": ",".join(cifar10.LABELS), "input": msgspec.json.encode(INPUT).decode()}
    export(network.eval(), out / "full.onnx", properties)
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
