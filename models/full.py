"""The full model of the CIFAR-10 bundle: trained on labels, written as the ONNX file that ``build`` takes, beside the
images as a user's would be, in a directory for each class."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional as F

from models import cifar10, imagenet
from models.cifar10 import INPUT, Cifar10, Images, Split
from models.distil import distillation_loss
from models.efficientnet import Lite
from models.export import export
from models.networks import RESNET18, Network, ResNet, Shape
from models.restore import restore
from models.scenes import SCENES, SEEN
from models.training import (
    Batch,
    Epoch,
    Loss,
    Recipe,
    accuracy,
    fit,
    label_loss,
    labelled,
    normalise,
    scores,
)


@dataclass(frozen=True)
class Lessons:
    """A network and the descents that it is trained in: on labels, and then with a tutor, where there is one."""

    shape: Shape
    recipes: tuple[Recipe, ...]
    tutor: Recipe | None = None
    tutored: Recipe | None = None


CIFAR10 = Lessons(
    RESNET18,
    # Further descents, without the grey squares, are worth more than their epochs added to the first. The last learns
    # to see through a camera: half a pixel off its grid cost the two before it four points in a hundred.
    (
        Recipe(phases=((4, 20), (5, 24), (5, 32)), rate=0.15),
        Recipe(phases=((4, 32),), rate=0.03, warmup=0.05, cutout=0, seed=1),
        Recipe(phases=((2, 24), (7, 32)), rate=0.08, warmup=0.15, cutout=0, sensed=0.5, seed=2),
    ),
    # Then it learns what a tutor that has seen ImageNet before these images says of them, together with what it said
    # itself: the two err differently.
    tutor=Recipe(
        phases=((6, 32),), rate=0.03, batch=96, decay=1e-4, warmup=0.15, smoothing=0.0, cutout=0, sensed=0.4, seed=11
    ),
    tutored=Recipe(phases=((3, 24), (5, 32)), rate=0.05, warmup=0.15, cutout=0, sensed=0.4, seed=7),
)
#: Pixels that the tutor sees a picture with.
_ENLARGED = 128
#: Its kernels of so many numbers take a byte each, which halves the file.
_LARGE = 20_000
#: The same path in seconds, good for nothing but a try.
SMOKE = Lessons(Shape(widths=(8, 16), blocks=(1, 1)), (Recipe(phases=((2, 16), (2, 32)), rate=0.05),))


def train(lessons: Lessons, data: Cifar10, work: Path, progress: Progress, start: Path | None = None) -> ResNet:
    """Train what is missing in ``work``; ``start``: a network, an ONNX file of ours, that has learned from labels
    already. Raises ``RestoreError`` if it is none, and ``FetchError`` where the tutor cannot be had."""
    torch.manual_seed(0)
    if start is not None:
        network = restore(start, normalise(data.train.images[:500], INPUT))
    else:
        network = ResNet(lessons.shape, auxiliary=True)
        for number, recipe in enumerate(lessons.recipes, 1):
            title = f"full, {number} of {len(lessons.recipes)}"
            views, path = labelled(data.train, recipe), work / f"full-{number}.pt"
            _fit(network, recipe, views, label_loss(recipe), path, data, progress, title)
    if lessons.tutor is not None and lessons.tutored is not None:
        tutor = _tutor(lessons.tutor, data, work, progress)
        views = _explained(labelled(data.train, lessons.tutored), (tutor, copy.deepcopy(network)))
        _fit(network, lessons.tutored, views, distillation_loss(), work / "tutored.pt", data, progress, "full, tutored")
    return network


def _tutor(recipe: Recipe, data: Cifar10, work: Path, progress: Progress) -> Lite:
    """EfficientNet-Lite0 with ImageNet's weights, made familiar with the training images."""
    torch.manual_seed(0)
    tutor = Lite(imagenet.weights(0), len(cifar10.LABELS), _ENLARGED, INPUT.mean, INPUT.std)
    _fit(tutor, recipe, labelled(data.train, recipe), label_loss(recipe), work / "tutor.pt", data, progress, "tutor")
    return tutor


def _explained(views: Epoch, teachers: Sequence[Network]) -> Epoch:
    """The same views, with what the teachers say of each, together, in the place of its label: the mean of the
    logarithms of their probabilities."""

    def say(images: Images) -> Tensor:
        said = [F.log_softmax(torch.from_numpy(scores(one, images, INPUT)), 1) for one in teachers]
        return torch.stack(said).mean(0)

    def epoch(number: int, rng: np.random.Generator) -> Iterator[Batch]:
        for images, _labels in views(number, rng):
            yield images, say(images)

    return epoch


def _fit(
    network: Network,
    recipe: Recipe,
    views: Epoch,
    loss: Loss,
    path: Path,
    data: Cifar10,
    progress: Progress,
    title: str,
) -> None:
    def held(trained: Network) -> dict[str, float]:
        return {"held": accuracy(trained, data.held, INPUT)}

    fit(network, INPUT, recipe, views, len(data.train) // recipe.batch, loss, path, progress, title, held)


def lay_out(network: ResNet, data: Cifar10, out: Path) -> None:
    """Write what ``build`` takes: ``full.onnx``, ``train/`` and ``held/`` with a directory for each class, and
    ``scenes.json``, the labels that come together in the scenes that building may know."""
    properties = {"labels": ",".join(cifar10.LABELS), "input": msgspec.json.encode(INPUT).decode()}
    export(network.eval(), out / "full.onnx", properties, _LARGE)
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
