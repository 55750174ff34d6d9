"""The tasks of the row: a split classifier, its training pictures, and the measured pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.literature import cifar_scores, clip
from benchmarks.literature.feature_compression.distil import Schedule
from benchmarks.literature.feature_compression.split_model import STATE_SITE, SplitModel, resnet_part
from benchmarks.literature.row import Inputs
from benchmarks.real.measure import BLOCK
from benchmarks.real_tasks import EXISTING, INPUT
from cachenet.models.data import cifar10
from cachenet.models.train.training import camera_augment
from cachenet.shared.bundle import zoo
from cachenet.shared.inference.image import crop

Images = npt.NDArray[np.uint8]

#: The task of the paper's row.
PAPER = "cifar10"


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: Its name.
        base: The base model of the same task, ONNX.
        schedule: Model, training pictures and length of the training.
        choice: Pictures ``(n, h, w, 3)`` RGB on which a level is chosen, and their true labels.
        measured: Pictures of the measurement, and their true labels.
        block: Consecutive measured pictures that depend on each other.
        rates: Channels and bits of each level of ``Selection``.
        sent: Channels that ``Transform`` sends.
        penalties: Weights of a bit in the loss of ``Transform``, the lowest rate first.
    """

    name: str
    base: Path
    schedule: Schedule
    choice: tuple[Images, npt.NDArray[np.int64]]
    measured: tuple[Images, npt.NDArray[np.int64]]
    block: int
    rates: tuple[tuple[int, int], ...]
    sent: int
    penalties: tuple[float, ...]


def names() -> dict[str, Callable[[Inputs], Task]]:
    """The tasks and their makers."""
    return {PAPER: cifar10_task, **{name: partial(state_task, name) for name in EXISTING}}


def cifar10_task(inputs: Inputs) -> Task:
    """The ResNet-18 of the CIFAR-10 bundle, split after its first block."""
    data = cifar_scores.load()
    count, choice, measured, batch = (64, 32, 48, 16) if inputs.smoke else (10_000, 500, 1000, 64)
    bundle = zoo.find(PAPER)
    split = resnet_part(bundle / "full/1/model.onnx", cifar10.INPUT.side)
    rng = np.random.default_rng(0)
    training = data.train.images[rng.permutation(len(data.train))[:count]]
    held, test = (
        part.take(rng.permutation(len(part))[:some]) for part, some in ((data.held_out, choice), (data.test, measured))
    )
    epochs = (1, 1, 1) if inputs.smoke else (2, 60, 30)
    schedule = Schedule(split, training, cifar10.INPUT, None, batch, 2 if inputs.smoke else 32, epochs)
    rates = ((1, 4), (1, 8), (2, 4), (4, 4), (8, 4))
    return Task(
        PAPER,
        bundle / "base/1/model.onnx",
        schedule,
        (held.images, held.labels),
        (test.images, test.labels),
        1,
        rates,
        sent=16,
        penalties=(3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6),  # a picture of its own has more bits than a frame of one camera
    )


def state_task(name: str, inputs: Inputs) -> Task:
    """A state classifier of ``benchmarks.real`` on a region of a real clip."""
    found = clip.existing(name, inputs.data)
    assert found.truth is not None
    learn, tune, play = (
        np.stack([crop(one, INPUT)[:, :, ::-1] for one in clip.region_pictures(found.video, found.region, *part)])
        for part in clip.parts(inputs.smoke)
    )
    truth = np.array([int(line) for line in found.truth.read_text().split()])[: len(play)]
    sizes = (16, 2, (1, 1, 1)) if inputs.smoke else (32, 20, (2, 10, 24))
    schedule = Schedule(
        SplitModel(onnx.load(str(found.full)), STATE_SITE, INPUT.side), learn, INPUT, camera_augment, *sizes
    )
    rates = ((1, 4), (1, 8), (2, 4), (4, 4))
    penalties = (3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
    choice = (tune, np.full(len(tune), -1))
    return Task(name, found.base, schedule, choice, (play, truth), BLOCK, rates, sent=8, penalties=penalties)
