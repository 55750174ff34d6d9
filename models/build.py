"""From a labelled data set to a bundle: full model, base model, submodels, gates, manifest.

Every stage leaves its result in a work directory and is skipped when it is there, so an interrupted build goes on
where it stopped. The bundle appears under its name only when it is whole.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from rich.progress import Progress

from models import cifar10, gates, recorded, streams
from models.cifar10 import Cifar10, Split
from models.distil import Teacher, mix, train_base, train_submodel
from models.export import export
from models.networks import BASE, RESNET18, ResNet, Shape, macs
from models.scenes import SCENES, SEEN
from models.training import MEAN, STD, Recipe, accuracy, fit, label_loss, labelled, scores, sense
from shared.bundle import FORMAT, MANIFEST, Bundle, Gate, Manifest, Model, digest, file_digest
from shared.engine import Session
from shared.gate import temperature
from shared.habits import ContextParameters
from shared.image import Input

INPUT = Input(side=32, mean=MEAN, std=STD)
_INPUT_JSON = msgspec.json.encode(INPUT).decode()


@dataclass(frozen=True)
class Preset:
    """Everything that decides what is built."""

    name: str
    full: Shape
    base: Shape
    full_recipes: tuple[Recipe, ...]
    base_recipe: Recipe
    submodel_recipe: Recipe
    scenes: tuple[int, ...]
    views: int
    tuning_pools: int
    pools: int
    typical: int
    frames: int
    budgets: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05)
    confidence: float = 0.95
    seed: int = 0


CIFAR10 = Preset(
    name="cifar10",
    full=RESNET18,
    base=BASE,
    # Further descents, without the grey squares, are worth more than their epochs added to the first. The last learns
    # to see through a camera: half a pixel off its grid cost the two before it four points in a hundred.
    full_recipes=(
        Recipe(phases=((4, 20), (5, 24), (5, 32)), rate=0.15),
        Recipe(phases=((4, 32),), rate=0.03, warmup=0.05, cutout=0, seed=1),
        Recipe(phases=((2, 24), (7, 32)), rate=0.08, warmup=0.15, cutout=0, sensed=0.5, seed=2),
    ),
    base_recipe=Recipe(phases=((8, 24), (20, 32)), rate=0.2, decay=1e-4),
    submodel_recipe=Recipe(phases=((3, 32),), rate=0.05, decay=1e-4),
    scenes=SEEN,
    views=3,
    tuning_pools=4,
    pools=16,
    typical=48,
    frames=1200,
)
#: The same path in under a minute, on the thousand images that ship with the project; good for nothing but a try.
SMOKE = Preset(
    name="cifar10-smoke",
    full=Shape(widths=(8, 16), blocks=(1, 1)),
    base=Shape(widths=(4, 8), blocks=(1, 1)),
    full_recipes=(Recipe(phases=((1, 16), (1, 32)), rate=0.05),),
    base_recipe=Recipe(phases=((1, 32),), rate=0.05),
    submodel_recipe=Recipe(phases=((1, 32),), rate=0.01),
    scenes=SEEN[:2],
    views=1,
    tuning_pools=1,
    pools=3,
    typical=3,
    frames=60,
)


def build(preset: Preset, data: Cifar10, work: Path, out: Path, progress: Progress) -> Bundle:
    """Train what is missing in ``work`` and write the bundle to ``out``, in the place of any before."""
    torch.manual_seed(preset.seed)
    full = ResNet(preset.full, auxiliary=True)
    for number, recipe in enumerate(preset.full_recipes, 1):
        fit(
            full,
            recipe,
            labelled(data.train, recipe),
            len(data.train) // recipe.batch,
            label_loss(recipe),
            work / f"full-{number}.pt",
            progress,
            f"full, {number} of {len(preset.full_recipes)}",
            lambda network: {"held": accuracy(network, data.held)},
        )
    tuned, proved = _divide(data.held)
    # What was distilled from another full model must not be taken for this one's.
    local = _train_local(preset, full, data, tuned, work / f"from-{_digest(full)[:12]}", progress)

    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    networks = {"full": full, **local}
    for name, network in networks.items():
        properties = {"bundle": preset.name, "model": name, "labels": ",".join(cifar10.LABELS), "input": _INPUT_JSON}
        export(network.eval(), building / name / "1" / "model.onnx", properties)
    manifest = _measure(preset, networks, tuned, proved, building, progress)
    (building / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    if out.exists():
        shutil.rmtree(out)
    building.rename(out)
    return Bundle(out)


def _train_local(
    preset: Preset, full: ResNet, data: Cifar10, tuned: Split, work: Path, progress: Progress
) -> dict[str, ResNet]:
    teacher = Teacher(full, data.train.images, preset.views, preset.seed, work, progress)
    torch.manual_seed(preset.seed + 1)
    base = ResNet(preset.base)
    train_base(base, teacher, preset.base_recipe, data.held, work / "base.pt", progress)
    networks = {"base": base}
    held = (tuned.images, scores(full, tuned.images))
    for name, classes in _scenes(preset).items():
        networks[name] = ResNet(preset.base)
        networks[name].load_state_dict(base.state_dict())
        train_submodel(
            networks[name], teacher, preset.submodel_recipe, classes, held, work / f"{name}.pt", progress, name
        )
    return networks


def _measure(
    preset: Preset, networks: Mapping[str, ResNet], tuned: Split, proved: Split, directory: Path, progress: Progress
) -> Manifest:
    """Temperatures and coverage on ``tuned``, as it is and as a camera sees it; candour on streams from it; gates on
    streams from ``proved``."""
    files = {name: directory / name / "1" / "model.onnx" for name in networks}
    sessions = {name: (Session(path, "cpu", torch.get_num_threads()), INPUT) for name, path in files.items()}
    sensed = Split(sense(tuned.images, np.random.default_rng(preset.seed)), tuned.labels)
    pictures = recorded.thumbnails(tuned) + recorded.thumbnails(sensed)
    logits = {name: recorded.run(session, spec, pictures) for name, (session, spec) in sessions.items()}
    truth, answers = np.concatenate([tuned.labels, sensed.labels]), logits["full"].argmax(1)
    scenes = _scenes(preset)
    # Of the full model we ask whether it is right; of a local one, whether it says what the full model would, and of
    # a submodel that where it is used.
    temperatures = {
        name: temperature(
            own, truth if name == "full" else answers, mix(answers, scenes[name]) if name in scenes else None
        )
        for name, own in logits.items()
    }
    coverage = {name: gates.coverage(own, temperatures[name], logits["full"], 0.05) for name, own in logits.items()}

    family = gates.Family("full", "base", tuple(scenes), temperatures, coverage, ContextParameters())
    tuning = [kind.apart for kind in _streams(preset, tuned, preset.tuning_pools, 0, sessions, progress)]
    wander = round(gates.wander(tuning, family), 2)
    family = replace(family, context=msgspec.structs.replace(family.context, wander=wander))
    candour = round(gates.candour(tuning, family), 2)
    family = replace(family, context=msgspec.structs.replace(family.context, candour=candour))
    proving = _streams(preset, proved, preset.pools, preset.typical, sessions, progress)
    risks = gates.fit(proving, family, preset.budgets, preset.confidence)
    entropies = gates.fit(proving, family, preset.budgets, preset.confidence, gates.paper, gates.ENTROPIES)
    fitted = [
        Gate(budget, risk, preset.confidence, preset.pools, nats)
        for budget, risk, nats in zip(preset.budgets, risks, entropies, strict=True)
    ]

    models = {}
    for name, network in networks.items():
        models[name] = Model(
            role="full" if name == "full" else "base" if name == "base" else "submodel",
            file=f"{name}/1/model.onnx",
            bytes=files[name].stat().st_size,
            sha256=file_digest(files[name]),
            input=INPUT,
            temperature=round(temperatures[name], 4),
            parameters=network.parameters_count(),
            macs=macs(network),
            milliseconds=_milliseconds(files[name]),
            coverage=tuple(round(float(share), 4) for share in coverage[name]),
            classes=scenes.get(name, ()),
        )
    return Manifest(
        format=FORMAT,
        name=preset.name,
        task="classification",
        labels=cifar10.LABELS,
        models=models,
        gates=tuple(fitted),
        context=family.context,
        provenance={
            "data": "CIFAR-10, A. Krizhevsky 2009",
            "preset": digest(msgspec.json.encode(preset)),
            "torch": str(torch.__version__),
            "accuracy_held": f"{float((answers[: len(tuned)] == tuned.labels).mean()):.4f}",
        },
    )


def _streams(
    preset: Preset,
    split: Split,
    count: int,
    typical: int,
    models: Mapping[str, tuple[Session, Input]],
    progress: Progress,
) -> list[gates.Kind]:
    """``count`` streams of every kind, each from its own pool of the split. Of unrelated pictures, which take most of a
    pool, also ``typical`` from all of it; and without signatures, for a user who knows that neighbouring
    pictures say nothing about each other there."""
    pools = streams.pools(split.labels, count, preset.seed)
    whole = np.arange(len(split))
    total = len(streams.NAMES) * count + len(recorded.UNRELATED) * typical
    task = progress.add_task("streams for the gates", total=total)
    kinds, unsigned = [], []
    for name in streams.NAMES:
        drawn = pools + [whole] * (typical if name in recorded.UNRELATED else 0)
        plans = [
            streams.plan(name, split.labels, preset.seed + i, preset.frames, pool, SEEN) for i, pool in enumerate(drawn)
        ]
        streamed = recorded.record(plans, split, models, lambda: progress.advance(task), signed=True)
        kinds.append(gates.Kind(streamed[:count], streamed[count:] or streamed))
        if name in recorded.UNRELATED:
            blind = [replace(one, signatures=None) for one in streamed]
            unsigned.append(gates.Kind(blind[:count], blind[count:] or blind))
    progress.remove_task(task)
    return kinds + unsigned


def _scenes(preset: Preset) -> dict[str, tuple[int, ...]]:
    """The submodels: what each is called, and its classes."""
    several = [SCENES[number].classes for number in preset.scenes]
    return {"-".join(cifar10.LABELS[label] for label in classes): classes for classes in several}


def _digest(network: ResNet) -> str:
    """SHA-256 of a network's weights."""
    return digest(b"".join(value.cpu().numpy().tobytes() for value in network.state_dict().values()))


def _divide(held: Split) -> tuple[Split, Split]:
    """A fifth of each class to fit temperatures on, the rest to prove gates on."""
    order = np.concatenate([np.flatnonzero(held.labels == c) for c in np.unique(held.labels)])
    place = np.concatenate([np.arange((held.labels == c).sum()) for c in np.unique(held.labels)])
    first = place % 5 == 0
    return held.take(np.sort(order[first])), held.take(np.sort(order[~first]))


def _milliseconds(path: Path) -> float:
    """Median of 50 runs, one image, one thread."""
    session = Session(path, "cpu", 1)
    image = np.zeros((1, 3, INPUT.side, INPUT.side), np.float32)
    times = []
    for _ in range(50):
        begun = time.perf_counter()
        session.run(image)
        times.append(time.perf_counter() - begun)
    return round(float(np.median(times)) * 1000, 3)
