"""What makes a submodel worth more than a general model of its size: one thing changed at a time, in one run.

    python -m benchmarks.submodels --try length --try weight --data build/cifar10 --bundle models/zoo/cifar10

CIFAR-10 as ``model-builder train`` lays it out: networks are trained on the training images and judged on the held-out
ones; test images are never touched, so that a choice may be made by these figures. Each figure is the share of frames
that are answered when 1 % of the answers differ from the full model's, of images drawn as a scene shows them (its
labels alike, 5 % strangers), with that prior multiplied into what a model says. ``general`` is the model that the
submodels were tuned from; scenes that nobody may build for are left out. What is trained is kept in ``--work``; an
interrupted run goes on there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F

from cachenet.models.build import kept
from cachenet.models.certify import recorded
from cachenet.models.data.cifar10 import INPUT, Images, cache_directory
from cachenet.models.data.dataset import Dataset, whole
from cachenet.models.data.frames import find
from cachenet.models.data.scenes import CLASSES, SCENES, SEEN
from cachenet.models.data.streams import STRANGERS
from cachenet.models.export import cost, quantise
from cachenet.models.export.classifier import understand
from cachenet.models.export.export import export
from cachenet.models.export.from_onnx import restore
from cachenet.models.report import scores
from cachenet.models.train import clusters, distill, partitions, teacher_runtime
from cachenet.models.train.clusters import unit
from cachenet.models.train.distill import Teacher
from cachenet.models.train.label import teach
from cachenet.models.train.networks import BASE, ResNet, macs, sized
from cachenet.models.train.training import Loss, Recipe, fit, normalise, rounding
from cachenet.models.train.training import scores as run
from cachenet.shared.bundle.manifest import Bundle, digest
from cachenet.shared.cascade.probability import fit_temperature, softmax
from cachenet.shared.command import atomic_files

Logits = npt.NDArray[np.float32]
Rows = npt.NDArray[np.bool_]

#: Frames that are drawn of each scene.
_DRAWN = 20_000
_RISK = 0.01
#: Of the full model's, the multiply-adds of a local model.
SHARES = (1 / 50, 1 / 25, 1 / 13, 1 / 8)
_VIEWS = 4


@dataclass(frozen=True)
class Tuning:
    """How a submodel is made of a general model. ``epochs``: of half the data each. ``weight``: the partition's part of
    the mix; None for all of the data alike, which makes no submodel but a general model that was trained as long.
    ``softness``: of the teacher's scores. ``adjusted``: whether the mix's prior is undone. ``foreseen``: whether
    what the context will say of the partition is in the lesson. ``features``: how much the teacher's embedding counts
    in the loss. ``pushed``: what is trained and travels: all, the last stage and the head, or the head."""

    epochs: int = 6
    weight: float | None = 0.8
    softness: float = 3.0
    adjusted: bool = True
    foreseen: bool = False
    features: float = 0.0
    pushed: str = "all"
    rate: float = 0.05


TRIALS: dict[str, dict[str, Tuning]] = {
    "length": {f"{epochs} half epochs": Tuning(epochs=epochs) for epochs in (6, 12, 24)},
    "longer": {
        f"{epochs} half epochs, {what}": Tuning(epochs=epochs, weight=weight, foreseen=foreseen, rate=rate)
        for epochs, rate in ((3, 0.05), (24, 0.1))
        for what, weight, foreseen in (("all alike", None, False), ("mix", 0.8, False), ("mix, foreseen", 0.8, True))
    },
    "weight": {f"weight {weight}": Tuning(weight=weight) for weight in (0.6, 0.8, 0.95)},
    "softness": {f"softness {softness:g}": Tuning(softness=softness) for softness in (1.0, 3.0, 6.0)},
    "prior": {"undone": Tuning(), "left": Tuning(adjusted=False)},
    "features": {f"features {part:g}": Tuning(features=part) for part in (0.0, 1.0)},
    "pushed": {pushed: Tuning(pushed=pushed) for pushed in ("all", "last", "head")},
}


class Student(ResNet):
    """A general model to tune: also says what the teacher's embedding may be, and keeps what is not pushed as it is."""

    def __init__(self, general: ResNet, tuning: Tuning, embedding: int) -> None:
        super().__init__(general.shape)
        self.load_state_dict(general.state_dict())
        self.guess = nn.Linear(self.head.in_features, embedding)
        self.kept: list[nn.Module] = []
        if tuning.pushed != "all":
            stages = list(self.stages)
            self.kept = [self.stem, *(stages if tuning.pushed == "head" else stages[:-1])]
        for part in self.kept:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Student:
        super().train(mode)
        for part in self.kept:
            part.train(False)
        return self

    def heads(self, x: Tensor) -> list[Tensor]:
        pooled = _pooled(self, x)
        return [self.guess(pooled), self.head(pooled)]


def _pooled(network: ResNet, x: Tensor) -> Tensor:
    """What the head sees."""
    x = network.stem(x)
    for stage in network.stages:
        x = stage(x)
    return x.mean((2, 3))


def _seen(network: ResNet, images: Images) -> npt.NDArray[np.float32]:
    """What the network's head sees, ``(n, d)``."""
    network.eval()
    with torch.no_grad(), rounding():
        parts = [normalise(images[at : at + 500], INPUT) for at in range(0, len(images), 500)]
        return np.concatenate([_pooled(network, part).float().numpy() for part in parts])


class _Teacher(Teacher):
    """A teacher that shows what it sees, too: batches have its scores and then its embedding."""

    def show(self, embeddings: npt.NDArray[np.float32]) -> None:
        self._scores = [np.concatenate([own, embeddings.astype(np.float16)], axis=1) for own in self._scores]


class Bench:
    """The data, the full model's word about it, and what has been trained so far."""

    def __init__(self, full: Path, data: Path, work: Path, epochs: int, threads: int, base: Path | None = None) -> None:
        """``base``: the general model to start from, exported; one is trained where there is none."""
        self._base = base
        torch.set_num_threads(threads)
        classifier = understand(full)
        self.epochs = epochs
        self.progress = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
        sources = [find(data / name, 1) for name in ("train", "held")]
        parts = [whole(classifier, one, teach(classifier, one, work, threads)) for one in sources]
        self.learn, held = parts
        material = Dataset(classifier, self.learn, held, held)
        self.work = kept(0, material, work) / "trials"
        self.images, self.held = held.images, held.scores
        self.full_macs = cost.macs(classifier.graph, INPUT.side)
        #: Half of the held-out images is for temperatures and priors, the other half for the figures.
        self.fitted = np.arange(len(self.held)) % 2 == 0
        # The very scores that a build is taught with, from the same place.
        own = teacher_runtime.find(full, INPUT, held, _VIEWS * len(self.learn), self.work.parent)
        self.teacher = _Teacher(
            lambda images: recorded.run(own.session, INPUT, recorded.as_pictures(images)),
            self.learn.images,
            _VIEWS,
            0,
            self.work.parent / own.name,
            self.progress,
        )
        self.teacher.show(self.embeddings)

    def general(self, share: float, epochs: int, blocks: int = BASE.blocks[0]) -> ResNet:
        """A general model of ``share`` of the full model's multiply-adds, with ``blocks`` in each of three stages; or
        the one that was given."""
        if self._base is not None:
            return restore(self._base, normalise(self.images[:500], INPUT)).eval()
        torch.manual_seed(1)
        network = ResNet(sized(int(share * self.full_macs), 32, 10, (blocks,) * 3))
        recipe = Recipe(phases=((epochs // 4, 24), (epochs - epochs // 4, 32)), rate=0.2, decay=1e-4)
        path = self.work / f"general-{'-'.join(map(str, network.shape.widths))}-{blocks}-{epochs}.pt"
        title = f"general 1/{1 / share:.0f}"
        steps = self.teacher.steps(recipe.batch)
        views = self.teacher.epoch(recipe.batch)
        fit(network, INPUT, recipe, views, steps, _loss(Tuning()), path, self.progress, title)
        return network.eval()

    def tuned(self, general: ResNet, tuning: Tuning, rows: Rows, name: str) -> Student:
        """A submodel for the training images ``rows``."""
        torch.manual_seed(2)
        student = Student(general, tuning, self.embeddings.shape[1])
        weights = distill.mix(rows, rows.mean() if tuning.weight is None else tuning.weight)
        recipe = Recipe(phases=((tuning.epochs, 32),), rate=tuning.rate, decay=1e-4)
        steps = self.teacher.steps(recipe.batch, 0.5)
        views = self.teacher.epoch(recipe.batch, weights, 0.5)
        path = self.work / f"{name}-{digest(rows.tobytes())[:16]}.pt"
        prior = distill.log_prior(distill.mix(rows, 1 - STRANGERS), self.taught, CLASSES) if tuning.foreseen else None
        fit(student, INPUT, recipe, views, steps, _loss(tuning, prior), path, self.progress, name)
        if tuning.adjusted:
            held = (self.images[self.fitted], self.held[self.fitted])
            distill.undo_prior(student, INPUT, distill.log_prior(weights, self.taught, CLASSES), held)
        return student

    @cached_property
    def embeddings(self) -> npt.NDArray[np.float32]:
        """The teacher's of the training images as they are, all of one length, whose numbers are of size one: a view
        shifts them little."""
        embeddings = unit(self.learn.embeddings)
        return np.asarray(embeddings * np.sqrt(embeddings.shape[1]), np.float32)

    @cached_property
    def taught(self) -> npt.NDArray[np.int64]:
        """The teacher's answers for the training images."""
        return self.learn.answers

    def answered(self, said: Logits, scene: tuple[int, ...], doubt: npt.NDArray[np.float64] | None = None) -> float:
        """The share of frames of a scene that a model answers at 1 % risk. ``doubt``: in the place of its own."""
        shows = np.full(10, STRANGERS / (10 - len(scene)))
        shows[list(scene)] = (1 - STRANGERS) / len(scene)
        answers = self.held.argmax(1)
        weights = (shows / np.bincount(answers, minlength=10))[answers]
        fitted, asked = self.fitted, ~self.fitted
        degree = fit_temperature(said[fitted], answers[fitted], weights[fitted])
        word = softmax(said[asked], degree) * shows
        word /= word.sum(1, keepdims=True)
        own = 1 - word.max(1) if doubt is None else 1 - (1 - doubt[asked]) * word.max(1)
        chances = weights[asked] / weights[asked].sum()
        drawn = np.random.default_rng(3).choice(len(own), _DRAWN, p=chances)
        return scores.coverage_at(_RISK, own[drawn], (word.argmax(1) == answers[asked])[drawn])

    def said(self, network: ResNet) -> Logits:
        return run(network, self.images, INPUT)


def _loss(tuning: Tuning, log_prior: npt.NDArray[np.float64] | None = None) -> Loss:
    """Of the scores (see ``distillation_loss``), and of the embedding where that counts: mean squared error after a
    linear map (A. Romero et al., "FitNets", arXiv 1412.6550)."""
    of_scores = distill.distillation_loss(log_prior, tuning.softness)

    def loss(said: list[Tensor], target: Tensor) -> Tensor:
        value = of_scores(said, target[:, :CLASSES])
        if tuning.features:
            value = value + tuning.features * F.mse_loss(said[0], target[:, CLASSES:])
        return value

    return loss


def sizes(bench: Bench) -> dict[str, Any]:
    """General models by size."""
    return {f"1/{1 / share:.0f}": _worth(bench, bench.general(share, bench.epochs)) for share in SHARES}


def depth(bench: Bench, share: float) -> dict[str, Any]:
    """General models by the number of blocks in a stage, all of one size."""
    return {f"{blocks} a stage": _worth(bench, bench.general(share, bench.epochs, blocks)) for blocks in (1, 2, 3)}


def patience(bench: Bench, share: float) -> dict[str, Any]:
    """General models by how long they are trained."""
    lengths = (bench.epochs // 2, bench.epochs, 2 * bench.epochs)
    return {f"{epochs} epochs": _worth(bench, bench.general(share, epochs)) for epochs in lengths}


def _worth(bench: Bench, network: ResNet) -> dict[str, Any]:
    """``ms``: a picture, one thread of this machine, float16 and INT8."""
    said = bench.said(network)
    whole, light = bench.work / "one.onnx", bench.work / "one-light.onnx"
    export(network.eval(), whole, {})
    images = normalise(bench.images[:500], INPUT).numpy()
    atomic_files.write(light, quantise.int8(onnx.load(str(whole)), images).SerializeToString())
    times = cost.seconds([whole, light], images[:1], 100)
    return {
        "widths": network.shape.widths,
        "parameters": network.parameters_count(),
        "macs": macs(network),
        "ms": dict(zip(("float16", "int8"), (round(1000 * one, 3) for one in times), strict=True)),
        "agreement": float((said.argmax(1) == bench.held.argmax(1)).mean()),
        "answered": _mean([bench.answered(said, SCENES[number].classes) for number in SEEN]),
    }


def trial(bench: Bench, name: str, share: float, scenes: tuple[int, ...]) -> dict[str, Any]:
    """Each way of ``TRIALS[name]`` over ``scenes``, beside the general model that they all start from."""
    general = bench.general(share, bench.epochs)
    before = bench.said(general)
    found: dict[str, Any] = {"general": _mean([bench.answered(before, SCENES[n].classes) for n in scenes])}
    for way, tuning in TRIALS[name].items():
        own = []
        for number in scenes:
            classes = SCENES[number].classes
            student = bench.tuned(general, tuning, np.isin(bench.taught, classes), _file(share, bench, tuning, number))
            own.append(bench.answered(bench.said(student), classes))
        found[way] = _mean(own)
    return found


def stranger(bench: Bench, share: float, scenes: tuple[int, ...]) -> dict[str, Any]:
    """A score of its own for "not mine", learned from the submodel's embedding, against what the scores say of it."""
    general, found = bench.general(share, bench.epochs), dict[str, list[float]](own=[], separate=[])
    images = bench.teacher.view(0)
    for number in scenes:
        classes = SCENES[number].classes
        student = bench.tuned(general, Tuning(), np.isin(bench.taught, classes), _file(share, bench, Tuning(), number))
        said = bench.said(student)
        some = np.random.default_rng(4).permutation(len(images))[:15_000]
        other = ~np.isin(bench.taught[some], classes)
        weights = np.where(other, STRANGERS / other.sum(), (1 - STRANGERS) / (~other).sum())
        seen, asked = (_seen(student, one) for one in (images[some], bench.images))
        doubt = _other(seen, other, weights, asked)
        found["own"].append(bench.answered(said, classes))
        found["separate"].append(bench.answered(said, classes, doubt))
    return {way: _mean(own) for way, own in found.items()}


def _other(
    seen: npt.NDArray[np.float32], other: Rows, weights: npt.NDArray[np.float64], asked: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """The probability that what was ``asked`` about is none of the submodel's, by logistic regression."""
    head = nn.Linear(seen.shape[1], 1)
    middle, spread = seen.mean(0), seen.std(0) + 1e-6
    x, y = torch.from_numpy((seen - middle) / spread), torch.from_numpy(other.astype(np.float32))
    w = torch.from_numpy(weights.astype(np.float32))
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = (w * F.binary_cross_entropy_with_logits(head(x)[:, 0], y, reduction="none")).sum()
        value = value + 1e-4 * head.weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return np.asarray(torch.sigmoid(head(torch.from_numpy((asked - middle) / spread))[:, 0]).numpy(), np.float64)


def methods(bench: Bench, share: float, count: int) -> dict[str, Any]:
    """Ways to cut the data into ``count`` parts: the mean over scenes of what the best submodel answers."""
    general = bench.general(share, bench.epochs)
    embeddings = bench.embeddings
    likely = [partitions.together(SCENES[number].classes, 10) for number in SEEN]
    own = clusters.assign(embeddings, clusters.fit(embeddings, 40, 0))
    cut = {
        "codes": partitions.by_codes(own, bench.taught, 10, likely, count),
        "scenes": [
            partitions.Partition(np.isin(bench.taught, SCENES[n].classes), SCENES[n].classes) for n in SEEN[:count]
        ],
    }
    before = bench.said(general)
    found: dict[str, Any] = {"general": _mean([bench.answered(before, SCENES[n].classes) for n in SEEN])}
    for method, parts in cut.items():
        said = [before]
        for number, part in enumerate(parts):
            student = bench.tuned(general, Tuning(), part.rows, f"{method}-{1 / share:.0f}-{bench.epochs}-{number}")
            said.append(bench.said(student))
        best = [max(bench.answered(one, SCENES[n].classes) for one in said) for n in SEEN]
        found[method] = {"submodels": len(parts), "answered": _mean(best)}
    return found


def _file(share: float, bench: Bench, tuning: Tuning, scene: int) -> str:
    plain = replace(tuning, adjusted=True)  # what is trained is the same
    words = "-".join(str(value) for value in vars(plain).values())
    return f"tuned-{1 / share:.0f}-{bench.epochs}-{scene}-{words}"


def _mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ("sizes", "depth", "patience", *TRIALS, "stranger", "methods")
    parser.add_argument("--try", dest="tried", action="append", choices=known, help="may come again; default: all")
    parser.add_argument("--full", type=Path, default=Path("models/zoo/cifar10/full/1/model.onnx"))
    parser.add_argument("--data", type=Path, default=Path("build/cifar10"), help="what 'model-builder train' lays out")
    parser.add_argument("--work", type=Path, default=cache_directory() / "lessons", help="as of 'model-builder build'")
    parser.add_argument("--epochs", type=int, default=20, help="of a general model")
    parser.add_argument("--bundle", type=Path, help="tune its base model, in the place of training a general one")
    parser.add_argument("--general", help="tune this one of the bundle's models, in the place of its base model")
    parser.add_argument("--share", type=float, default=1 / 13, help="of the full model's multiply-adds")
    parser.add_argument("--scenes", type=int, nargs="+", default=[SEEN[0], SEEN[4], SEEN[5], SEEN[6]])
    parser.add_argument("--count", type=int, default=8, help="parts that the data is cut into")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    base = None
    if asked.bundle is not None:
        found = Bundle(asked.bundle)
        base = found.path(asked.general or found.manifest.only("base"))
    bench = Bench(asked.full, asked.data, asked.work, asked.epochs, asked.threads, base)
    scenes = tuple(asked.scenes)
    special: dict[str, Callable[[], dict[str, Any]]] = {
        "sizes": lambda: sizes(bench),
        "depth": lambda: depth(bench, asked.share),
        "patience": lambda: patience(bench, asked.share),
        "stranger": lambda: stranger(bench, asked.share, scenes),
        "methods": lambda: methods(bench, asked.share, asked.count),
    }
    with bench.progress:
        tried = {
            name: special[name]() if name in special else trial(bench, name, asked.share, scenes)
            for name in asked.tried or known
        }
    setting = {"share": asked.share, "epochs": asked.epochs, "scenes": scenes, "views": _VIEWS, "images": "held-out"}
    print(json.dumps({**setting, **tried}))


if __name__ == "__main__":
    main()
