"""The gain of fine-tuning a general model for a scene, one thing changed at a time.

    python -m benchmarks.submodels --try length --data build/cifar10 --bundle models/zoo/cifar10

On CIFAR-10 as ``model-builder train`` writes it: networks are trained on the training images and measured on the
held-out ones; test images are never used. Each result is the share of frames that a model answers when 1 % of its
answers differ from the full model's. Images are drawn as a scene shows them (its labels equally often, 5 % others),
and that prior is multiplied into the model's probabilities. ``general`` is the model before fine-tuning. Trained
networks are kept in ``--work``; an interrupted run continues there.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import Progress

from cachenet.models.build import results_directory
from cachenet.models.certify import traces
from cachenet.models.data.cifar10 import INPUT, cache_directory
from cachenet.models.data.dataset import Dataset, all_frames
from cachenet.models.data.frames import find
from cachenet.models.data.scenes import CLASSES, KNOWN, SCENES
from cachenet.models.data.streams import OUT_OF_SET
from cachenet.models.export import cost
from cachenet.models.export.classifier import load_classifier
from cachenet.models.report import scores
from cachenet.models.train import distill, teacher_runtime
from cachenet.models.train.distill import Teacher
from cachenet.models.train.label import label_frames
from cachenet.models.train.networks import BASE, ResNet, sized
from cachenet.models.train.training import Recipe, fit
from cachenet.models.train.training import scores as run
from cachenet.shared.bundle.manifest import digest
from cachenet.shared.cascade.probability import fit_temperature, softmax

Logits = npt.NDArray[np.float32]

#: Frames drawn of each scene.
_DRAWN = 20_000
#: Risk at which the share of answered frames is measured.
_RISK = 0.01
#: Views of a training image that the teacher labels.
_VIEWS = 4


@dataclass(frozen=True)
class Tuning:
    """How a general model is fine-tuned.

    Attributes:
        epochs: Epochs over half of the data each.
        weight: Share of the scene's labels in the training data; None: all labels alike, which is no fine-tuning but
            longer training.
        with_prior: Whether the scene's prior is added to the logits of teacher and student.
        rate: Learning rate.
    """

    epochs: int = 6
    weight: float | None = 0.8
    with_prior: bool = False
    rate: float = 0.05


TRIALS: dict[str, dict[str, Tuning]] = {
    "length": {f"{epochs} half epochs": Tuning(epochs=epochs) for epochs in (6, 12, 24)},
    "longer": {
        f"{epochs} half epochs, {what}": Tuning(epochs, weight, with_prior, rate)
        for epochs, rate in ((3, 0.05), (24, 0.1))
        for what, weight, with_prior in (("all alike", None, False), ("mix", 0.8, False), ("mix and prior", 0.8, True))
    },
    "weight": {f"weight {weight}": Tuning(weight=weight) for weight in (0.6, 0.8, 0.95)},
}


class Bench:
    """The data, the teacher, and the networks trained so far."""

    def __init__(self, full: Path, data: Path, work: Path, epochs: int, threads: int) -> None:
        """Label the data with the model ``full``.

        Args:
            full: The full model, ONNX.
            data: Directory with ``train`` and ``held``.
            work: Directory of trained networks.
            epochs: Epochs of a general model.
            threads: Threads to train with.
        """
        torch.set_num_threads(threads)
        classifier = load_classifier(full)
        self.epochs = epochs
        self.progress = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
        sources = [find(data / name, 1) for name in ("train", "held")]
        self.learn, held = (
            all_frames(classifier, one, label_frames(classifier, one, work, threads)) for one in sources
        )
        self.work = results_directory(0, Dataset(classifier, self.learn, held, held), work) / "trials"
        self.images, self.held = held.images, held.scores
        self.full_macs = cost.macs(classifier.graph, INPUT.side)
        #: Half of the held-out images is for temperatures, the other half for the results.
        self.fitted = np.arange(len(self.held)) % 2 == 0
        runtime = teacher_runtime.choose_runtime(full, INPUT, held, _VIEWS * len(self.learn), self.work.parent)
        self.teacher = Teacher(
            lambda images: traces.run_model(runtime.session, INPUT, traces.as_pictures(images)),
            self.learn.images,
            _VIEWS,
            0,
            self.work.parent / runtime.name,
            self.progress,
        )

    def general(self, share: float) -> ResNet:
        """The general model, of ``share`` of the full model's multiply-adds."""
        torch.manual_seed(1)
        network = ResNet(sized(int(share * self.full_macs), 32, 10, BASE.blocks))
        recipe = Recipe(phases=((self.epochs // 4, 24), (self.epochs - self.epochs // 4, 32)), rate=0.2, decay=1e-4)
        path = self.work / f"general-{'-'.join(map(str, network.shape.widths))}-{self.epochs}.pt"
        views, steps = self.teacher.epoch(recipe.batch), self.teacher.steps(recipe.batch)
        fit(network, INPUT, recipe, views, steps, distill.distillation_loss(), path, self.progress, "general")
        return network.eval()

    def tuned(self, general: ResNet, tuning: Tuning, scene: int) -> ResNet:
        """A submodel for a scene, from the network ``general``."""
        torch.manual_seed(2)
        network = ResNet(general.shape)
        network.load_state_dict(general.state_dict())
        rows = np.isin(self.labels, SCENES[scene].classes)
        weights = distill.mix(rows, rows.mean() if tuning.weight is None else tuning.weight)
        recipe = Recipe(phases=((tuning.epochs, 32),), rate=tuning.rate, decay=1e-4)
        views, steps = self.teacher.epoch(recipe.batch, weights, 0.5), self.teacher.steps(recipe.batch, 0.5)
        path = self.work / f"tuned-{digest(repr((general.shape, self.epochs, tuning, scene)).encode())[:16]}.pt"
        prior = (
            distill.log_prior(distill.mix(rows, 1 - OUT_OF_SET), self.labels, CLASSES) if tuning.with_prior else None
        )
        title = f"scene {scene}"
        fit(network, INPUT, recipe, views, steps, distill.distillation_loss(prior), path, self.progress, title)
        held = (self.images[self.fitted], self.held[self.fitted])
        distill.undo_prior(network, INPUT, distill.log_prior(weights, self.labels, CLASSES), held)
        return network

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """The teacher's labels of the training images."""
        return self.learn.full_labels

    def answered(self, network: ResNet, scene: int) -> float:
        """Share of a scene's frames that ``network`` answers at a risk of ``_RISK``."""
        logits: Logits = run(network, self.images, INPUT)
        classes = SCENES[scene].classes
        prior = np.full(CLASSES, OUT_OF_SET / (CLASSES - len(classes)))
        prior[list(classes)] = (1 - OUT_OF_SET) / len(classes)
        answers = self.held.argmax(1)
        weights = (prior / np.bincount(answers, minlength=CLASSES))[answers]
        fitted, asked = self.fitted, ~self.fitted
        probabilities = (
            softmax(logits[asked], fit_temperature(logits[fitted], answers[fitted], weights[fitted])) * prior
        )
        probabilities /= probabilities.sum(1, keepdims=True)
        risk = 1 - probabilities.max(1)
        chances = weights[asked] / weights[asked].sum()
        drawn = np.random.default_rng(3).choice(len(risk), _DRAWN, p=chances)
        return scores.coverage_at(_RISK, risk[drawn], (probabilities.argmax(1) == answers[asked])[drawn])


def trial(bench: Bench, name: str, share: float, scenes: tuple[int, ...]) -> dict[str, Any]:
    """Mean over ``scenes`` of each way of ``TRIALS[name]``, and of the general model."""

    def mean(networks: list[ResNet]) -> float:
        shares = [bench.answered(network, scene) for network, scene in zip(networks, scenes, strict=True)]
        return round(float(np.mean(shares)), 4)

    general = bench.general(share)
    found = {"general": mean([general] * len(scenes))}
    for way, tuning in TRIALS[name].items():
        found[way] = mean([bench.tuned(general, tuning, scene) for scene in scenes])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--try", dest="tried", action="append", choices=TRIALS, help="may be repeated; default: all")
    parser.add_argument("--full", type=Path, default=Path("models/zoo/cifar10/full/1/model.onnx"))
    parser.add_argument("--data", type=Path, default=Path("build/cifar10"), help="output of 'model-builder train'")
    parser.add_argument(
        "--work", type=Path, default=cache_directory() / "teacher-logits", help="as of 'model-builder build'"
    )
    parser.add_argument("--epochs", type=int, default=20, help="epochs of a general model (default: 20)")
    parser.add_argument("--share", type=float, default=1 / 13, help="share of the full model's multiply-adds")
    parser.add_argument("--scenes", type=int, nargs="+", default=[KNOWN[0], KNOWN[4], KNOWN[5], KNOWN[6]])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    bench = Bench(chosen.full, chosen.data, chosen.work, chosen.epochs, chosen.threads)
    scenes = tuple(chosen.scenes)
    with bench.progress:
        tried = {name: trial(bench, name, chosen.share, scenes) for name in chosen.tried or TRIALS}
    setting = {"share": chosen.share, "epochs": chosen.epochs, "scenes": scenes, "views": _VIEWS, "images": "held-out"}
    print(json.dumps({**setting, **tried}))


if __name__ == "__main__":
    main()
