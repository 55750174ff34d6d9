"""The two comparisons: CIFAR-10 with the bundle's full model, and a camera's state with its full model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from benchmarks import real_tasks
from benchmarks.literature import cifar_scores, clip
from benchmarks.literature.converting_autoencoder.representatives import representatives
from benchmarks.literature.converting_autoencoder.students import TrainingSetup
from benchmarks.literature.row import Inputs
from cachenet.models.certify import traces
from cachenet.models.data.cifar10 import Images
from cachenet.models.export.classifier import Classifier, load_classifier
from cachenet.models.train import label
from cachenet.models.train.distill import Teacher
from cachenet.models.train.networks import Shape, sized
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.bundle.zoo import DIRECTORY
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input, crop

Labels = npt.NDArray[np.int64]
#: A quarter of the base model's multiply-adds, so that an arm trains in a quarter of an hour.
_CIFAR_MACS = 10_500_000
#: Epochs and picture sizes, of the autoencoder and of the distillation after it.
_CIFAR_PHASES = (((4, 24), (2, 32)), ((4, 24), (10, 32)))
#: Views of the training pictures that the teacher labels, and pictures of a batch.
_CIFAR_VIEWS, _CIFAR_BATCH = 4, 64
#: A quarter of the builder's 60 epochs of ``benchmarks.real_tasks``, of which the autoencoder gets a third.
_CAMERA_PHASES = (((2, 72), (3, 96)), ((2, 72), (8, 96)))
_CAMERA_BATCH, _CAMERA_VIEWS = 32, 4
#: The builder's rate for batches of 32 pictures.
_RATE = 0.1


@dataclass(frozen=True)
class Trial:
    """Data of one comparison.

    Attributes:
        setup: What the arms learn from.
        held_out, test: Pictures ``(n, h, w, 3)`` to fit thresholds on and to measure on.
        held_out_full, test_full: The full model's labels ``(n,)``.
        consecutive: Whether the test pictures are consecutive frames.
    """

    setup: TrainingSetup
    held_out: Images
    held_out_full: Labels
    test: Images
    test_full: Labels
    consecutive: bool


def cifar(inputs: Inputs) -> Trial:
    """CIFAR-10. The bundle's base model is teacher and baseline: its features and entropy choose the representative
    pictures. Agreement is with the full model. Raises ``DatasetError`` if CIFAR-10 cannot be downloaded."""
    bundle = Bundle(DIRECTORY / "cifar10")
    full, base = bundle.manifest.only("full"), bundle.manifest.only("base")
    spec = bundle.manifest.models[base].input
    train, held_out, test = (cifar_scores.split(name, inputs.smoke) for name in ("train", "held_out", "test"))
    held_out_full, test_full = (
        cifar_scores.logits(inputs, bundle, full, name).argmax(1) for name in ("held_out", "test")
    )
    chosen = _Targets(train.images, train.labels, load_classifier(bundle.path(base)))
    views = 1 if inputs.smoke else _CIFAR_VIEWS
    teacher = chosen.teacher(Session(bundle.path(base), "cpu", 1), spec, views, inputs, "cifar10")
    shape = sized(_CIFAR_MACS, spec.size, len(bundle.manifest.labels), (1, 1, 1))
    convert, distil = (((1, 16),), ((1, 16),)) if inputs.smoke else _CIFAR_PHASES
    batch = 16 if inputs.smoke else _CIFAR_BATCH
    setup = TrainingSetup("cifar10", shape, spec, teacher, chosen.pictures, convert, distil, batch, _RATE)
    return Trial(setup, held_out.images, held_out_full, test.images, test_full, False)


def camera(inputs: Inputs) -> Trial:
    """The state of a static camera, ``ob`` of ``benchmarks.real_tasks``. The baseline is the task's base model.

    Raises ``UserError`` if the clip or a model is not there.
    """
    task = clip.existing("ob", inputs.data)
    parts = clip.parts(inputs.smoke)
    pictures = clip.region_pictures(task.video, task.region, 0, parts[2][1])
    full = load_classifier(task.full, real_tasks.INPUT)
    session = Session(full.path, "cpu", 1)
    learn, tune, play = (
        np.stack([crop(one, real_tasks.INPUT)[:, :, ::-1] for one in pictures[slice(*part)]]) for part in parts
    )

    def labels(images: Images) -> Labels:
        found: Labels = traces.run_model(session, real_tasks.INPUT, traces.as_pictures(images)).argmax(1)
        return found

    chosen = _Targets(learn, labels(learn), load_classifier(task.base, real_tasks.INPUT))
    views = 1 if inputs.smoke else _CAMERA_VIEWS
    teacher = chosen.teacher(session, real_tasks.INPUT, views, inputs, "ob")
    shape = Shape(*real_tasks.BASE, len(full.labels), 4)
    convert, distil = (((1, 72),), ((1, 96),)) if inputs.smoke else _CAMERA_PHASES
    spec = real_tasks.INPUT
    setup = TrainingSetup(
        "ob", shape, spec, teacher, chosen.pictures, convert, distil, _CAMERA_BATCH if not inputs.smoke else 12, _RATE
    )
    return Trial(setup, tune, labels(tune), play, labels(play), True)


class _Targets:
    """The representative pictures of a data set.

    Attributes:
        pictures: The representative pictures ``(r, h, w, 3)``.
    """

    def __init__(self, images: Images, labels: Labels, baseline: Classifier) -> None:
        outputs = label.look(baseline, traces.as_pictures(images), 1)
        self._images = images
        self._chosen = representatives(outputs.embeddings, outputs.scores, labels, 0)
        self.pictures = images[self._chosen.rows]

    def teacher(self, session: Session, spec: Input, views: int, inputs: Inputs, name: str) -> Teacher:
        """The pictures in views, with the full model's logits and the number of the representative picture."""

        def outputs(images: Images) -> npt.NDArray[np.float32]:
            logits = traces.run_model(session, spec, traces.as_pictures(images))
            return np.column_stack([logits, self._chosen.of.astype(np.float32)])

        progress = Progress(console=Console(quiet=True))
        smoke = "-smoke" * inputs.smoke
        return Teacher(outputs, self._images, views, 0, inputs.work / f"{name}{smoke}", progress)
