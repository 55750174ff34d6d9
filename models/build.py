"""From a classifier and frames to a bundle: codes, partitions, base model, submodels, gates, manifest.

Every stage leaves its result in a work directory and is skipped when it is there, so an interrupted build goes on
where it stopped. The bundle appears under its name only when it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import onnx
import torch
from rich.progress import Progress

from models import codes, cost, gates, partitions, proof, quantise, recorded, replay, scores
from models.cifar10 import Images
from models.classifier import served
from models.distil import Logits, Teacher, mix, train_base, train_submodel
from models.export import export
from models.material import Material
from models.networks import ResNet, macs, sized
from models.partitions import Method, Partition, WorkingSet
from models.training import Recipe, sense
from shared import files
from shared.bundle import FORMAT, MANIFEST, SIGNATURE, Bundle, Gate, Manifest, Model, digest, file_digest
from shared.engine import Session
from shared.gate import temperature
from shared.habits import ContextParameters
from shared.image import preprocessor
from shared.signing import Signer

_CONFIDENCE = 0.95
_BUDGETS = (0.005, 0.01, 0.02, 0.05)
#: A submodel's threshold on doubt when its coverage is measured.
_SURE = 0.05
#: Codes for each label, and how many there are at the most.
_FINE, _MOST_CODES = 4, 256
#: Working sets that are drawn, for nobody knows all that will come together.
_DRAWN = 64
#: Timed runs of each model.
_RUNS = 50


#: ``auto``: INT8 where it takes at most ``_FASTER`` of the time and answers as much, to ``_AS_MUCH``.
Precision = Literal["auto", "float16", "int8"]
_FASTER, _AS_MUCH = 0.9, 0.01
#: Tuning frames that ranges are taken from.
_CALIBRATING = 500
#: Risk at which they are compared.
_COMPARED = 0.01


class BuildError(Exception):
    """A bundle that cannot be written where it was asked for; the message says why."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides what is built. ``share``: the multiply-adds of a local model, as a share of the full
    model's. ``method``, ``submodels``: how the data is partitioned, and into how many at the most; ``least``: what a
    submodel must add to what is answered to be kept. ``scenes``: labels that come together; drawn where there are none.
    ``precision``: of the local models' weights and activations. ``views``: copies of the frames that the full model
    looks at. ``epochs``, ``refining``: of the base model and of a submodel. ``pools``, ``typical``, ``frames``: of the
    streams that gates are proven on."""

    name: str
    share: float = 1 / 13
    method: Method = "codes"
    submodels: int = 12
    least: float = 0.001
    scenes: tuple[tuple[int, ...], ...] = ()
    views: int = 4
    epochs: int = 40
    refining: int = 3
    tuning_pools: int = 4
    pools: int = 16
    typical: int = 48
    frames: int = 1200
    precision: Precision = "auto"
    seed: int = 0


#: For a try: every stage, in a minute.
QUICK = Plan(
    "quick", submodels=2, least=0.0, views=1, epochs=2, refining=1, tuning_pools=3, pools=3, typical=3, frames=60
)


def build(
    plan: Plan,
    material: Material,
    work: Path,
    out: Path,
    progress: Progress,
    workers: int = 1,
    signer: Signer | None = None,
) -> Bundle:
    """Make what is missing in ``work`` and write the bundle to ``out``, in the place of any before. Raises
    ``BuildError`` where something else is in that place, and ``OSError`` if it cannot be written."""
    if out.exists() and not (out / MANIFEST).exists() and (not out.is_dir() or any(out.iterdir())):
        raise BuildError(f"{out} is there and is no bundle; name a new directory")
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    # Each result is kept under what it comes from and no more: with another number of submodels the scores of the
    # teacher and the base model stay as they are.
    graph = material.classifier.graph.SerializeToString(deterministic=True)
    work = work / f"build-{_key(digest(graph), digest(material.learn.scores.tobytes()), plan.seed)}"
    try:
        manifest = _fill(plan, material, work, building, progress, workers)
        data = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
        (building / MANIFEST).write_bytes(data)
        if signer is not None:
            (building / SIGNATURE).write_bytes(signer.sign(data))
        if out.exists():
            shutil.rmtree(out)
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Bundle(out)


def _fill(plan: Plan, material: Material, work: Path, directory: Path, progress: Progress, workers: int) -> Manifest:
    """Write every model into ``directory``; what is to be said of them."""
    classifier = material.classifier
    spec = msgspec.json.encode(classifier.input).decode()
    properties = {"bundle": plan.name, "labels": ",".join(classifier.labels), "input": spec}
    full = directory / "full" / "1" / "model.onnx"
    full.parent.mkdir(parents=True)
    graph = served(classifier, {**properties, "model": "full"})
    full.write_bytes(graph.SerializeToString(deterministic=True))

    drawn = partitions.working_sets(material.learn.answers, len(classifier.labels), _DRAWN, plan.seed)
    scenes = plan.scenes or tuple(drawn)
    # Known working sets are half of what is likely: devices will be put where nobody has thought of.
    known = plan.scenes * (_DRAWN // len(plan.scenes) or 1) if plan.scenes else ()
    likely = [partitions.together(scene, len(classifier.labels)) for scene in (*known, *drawn)]
    parts = _partition(plan, material, likely)
    networks = _train(plan, material, parts, Session(full, "cpu", torch.get_num_threads()), work, progress)
    for name, network in networks.items():
        export(network.eval(), directory / name / "1" / "model.onnx", {**properties, "model": name})
    precision = _lighten(plan, material, list(networks), directory)
    models = _measure(plan, material, parts, networks, likely, directory)
    context, proven = _prove(plan, material, models, scenes, directory, work, progress, workers)
    provenance = {
        "plan": digest(msgspec.json.encode(plan)),
        "frames": f"{len(material.learn)} to learn, {len(material.tune)} to tune, {len(material.prove)} to prove",
        "partitions": plan.method,
        "precision": precision,
        "torch": str(torch.__version__),
    }
    if material.tune.truth is not None:
        provenance["accuracy_tuned"] = f"{float((material.tune.answers == material.tune.truth).mean()):.4f}"
    return Manifest(FORMAT, plan.name, "classification", classifier.labels, models, proven, context, provenance)


def _partition(plan: Plan, material: Material, likely: Sequence[WorkingSet]) -> dict[str, Partition]:
    """The partitions by the names of their submodels."""
    learn, labels = material.learn, material.classifier.labels
    if plan.method == "experts":
        found = partitions.by_experts(learn.embeddings, learn.answers, len(labels), plan.submodels, plan.seed)
    else:
        count = min(_MOST_CODES, _FINE * len(labels), len(learn) // 4)
        own = codes.assign(learn.embeddings, codes.fit(learn.embeddings, count, plan.seed))
        found = partitions.by_codes(own, learn.answers, len(labels), likely, plan.submodels)
    return {_name(number, part, labels): part for number, part in enumerate(found, 1)}


def _name(number: int, part: Partition, labels: Sequence[str]) -> str:
    words = "-".join(labels[label] for label in part.labels).lower()
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in words)
    return f"{number:02}-{plain}"[:40].rstrip("-")


def _train(
    plan: Plan, material: Material, parts: Mapping[str, Partition], full: Session, work: Path, progress: Progress
) -> dict[str, ResNet]:
    learn, tune, spec = material.learn, material.tune, material.classifier.input

    def said(images: Images) -> Logits:
        return recorded.run(full, spec, recorded.as_pictures(images))

    teacher = Teacher(said, learn.images, plan.views, plan.seed, work, progress)
    limit = int(plan.share * cost.macs(material.classifier.graph, spec.side))
    torch.manual_seed(plan.seed + 1)
    base = ResNet(sized(limit, spec.side, len(material.classifier.labels)))
    early = plan.epochs // 4
    batch = max(8, min(128, len(learn) // 8))
    phases = ((early, spec.side * 3 // 4), (plan.epochs - early, spec.side))
    recipe = Recipe(phases=tuple(phase for phase in phases if phase[0]), rate=0.2, batch=batch, decay=1e-4)
    key = _key(plan.share, plan.views, plan.epochs)
    train_base(base, spec, teacher, recipe, tune.split, work / f"base-{key}.pt", progress)
    networks = {"base": base}
    for name, part in parts.items():
        networks[name] = ResNet(base.shape)
        networks[name].load_state_dict(base.state_dict())
        recipe = Recipe(phases=((plan.refining, spec.side),), rate=0.05, batch=batch, decay=1e-4)
        held = (tune.images, tune.scores)
        kept = work / f"{name}-{_key(key, plan.refining, digest(part.rows.tobytes()))}.pt"
        train_submodel(networks[name], spec, teacher, recipe, part.rows, held, kept, progress, name)
    return networks


def _lighten(plan: Plan, material: Material, names: Sequence[str], directory: Path) -> str:
    """Put INT8 in the place of float16 where the plan says so, or where it is better for the base model; what was
    found, for people. All local models are of one precision, so that none is chosen for another reason than its word.
    """
    if plan.precision == "float16":
        return "float16"
    tune, spec = material.tune, material.classifier.input
    prepare = preprocessor(spec)
    images = np.concatenate([prepare(picture) for picture in recorded.as_pictures(tune.images[:_CALIBRATING])])

    def lighter(name: str) -> Path:
        path = directory / name / "1" / "model.onnx"
        quantised = quantise.int8(onnx.load(str(path)), images)
        files.write(path.with_suffix(".int8"), quantised.SerializeToString(deterministic=True))
        return path.with_suffix(".int8")

    before, after = directory / "base" / "1" / "model.onnx", lighter("base")
    said = [
        recorded.run(Session(path, "cpu", torch.get_num_threads()), spec, recorded.as_pictures(tune.images))
        for path in (before, after)
    ]
    was, is_ = (
        scores.coverage_at(_COMPARED, scores.doubts(own, 1.0)["probability"], own.argmax(1) == tune.answers)
        for own in said
    )
    cost_ = quantise.compare(before, after, images[:1])
    found = (
        f"int8 takes {cost_.time:.2f} of float16's time and {cost_.bytes:.2f} of its bytes, and answers "
        f"{is_:.1%} of frames at 1 % risk for {was:.1%}"
    )
    if plan.precision == "auto" and (cost_.time > _FASTER or is_ < was - _AS_MUCH):
        after.unlink()
        return f"float16; {found}"
    for name in names:
        light = after if name == "base" else lighter(name)
        light.replace(directory / name / "1" / "model.onnx")
    return f"int8; {found}"


def _measure(
    plan: Plan,
    material: Material,
    parts: Mapping[str, Partition],
    networks: Mapping[str, ResNet],
    likely: Sequence[WorkingSet],
    directory: Path,
) -> dict[str, Model]:
    """Temperatures and coverage on the tuning frames, as they are and as a camera sees them. Submodels that add too
    little are taken out of ``directory``."""
    tune, spec = material.tune, material.classifier.input
    sensed = sense(tune.images, np.random.default_rng(plan.seed))
    pictures = recorded.as_pictures(np.concatenate([tune.images, sensed]))
    paths = {name: directory / name / "1" / "model.onnx" for name in ("full", *networks)}
    sessions = {name: (Session(path, "cpu", torch.get_num_threads()), spec) for name, path in paths.items()}
    logits = recorded.run_all(sessions, pictures)
    answers = logits["full"].argmax(1)
    # Of the full model we ask whether it is right, where anybody knows; of a local one, whether it says what the full
    # model would, and of a submodel that where it is used.
    temperatures = {"full": 1.0 if tune.truth is None else temperature(logits["full"], np.tile(tune.truth, 2))}
    for name in networks:
        weights = mix(np.isin(answers, parts[name].labels)) if name in parts else None
        temperatures[name] = temperature(logits[name], answers, weights)
    coverage = {name: gates.coverage(own, temperatures[name], logits["full"], _SURE) for name, own in logits.items()}

    order = list(parts)
    table = np.array([coverage[name] for name in order]).reshape(len(order), len(material.classifier.labels))
    kept = partitions.keep(table, coverage["base"], likely, plan.least)
    for number, name in enumerate(order):
        if number not in kept:
            shutil.rmtree(directory / name)
    graph, base = material.classifier.graph, networks["base"]
    sizes = dict.fromkeys(networks, (base.parameters_count(), macs(base, spec.side)))
    sizes["full"] = cost.parameters(graph), cost.macs(graph, spec.side)
    image = np.zeros((1, 3, spec.side, spec.side), np.float32)
    return {
        name: Model(
            role="full" if name == "full" else "base" if name == "base" else "submodel",
            file=f"{name}/1/model.onnx",
            bytes=paths[name].stat().st_size,
            sha256=file_digest(paths[name]),
            input=spec,
            temperature=round(temperatures[name], 4),
            parameters=sizes[name][0],
            macs=sizes[name][1],
            milliseconds=round(1000 * cost.seconds([paths[name]], image, _RUNS)[0], 3),
            coverage=tuple(round(float(share), 4) for share in coverage[name]),
            classes=parts[name].labels if name in parts else (),
        )
        for name in ("full", "base", *(order[number] for number in kept))
    }


def _prove(
    plan: Plan,
    material: Material,
    models: Mapping[str, Model],
    scenes: Sequence[tuple[int, ...]],
    directory: Path,
    work: Path,
    progress: Progress,
    workers: int,
) -> tuple[ContextParameters, tuple[Gate, ...]]:
    """The context's parameters from streams of the tuning frames, and gates from streams of the proving frames: 0, so
    that every frame is asked about, where there are too few for either."""
    digests = [model.sha256 for model in models.values()]
    frames = digest(material.tune.scores.tobytes() + material.prove.scores.tobytes())
    path = work / f"proven-{_key(digests, frames, scenes, plan)}.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=tuple[ContextParameters, tuple[Gate, ...]])
    proven = _find(plan, material, models, scenes, directory, progress, workers)
    files.write(path, msgspec.json.encode(proven))
    return proven


def _find(
    plan: Plan,
    material: Material,
    models: Mapping[str, Model],
    scenes: Sequence[tuple[int, ...]],
    directory: Path,
    progress: Progress,
    workers: int,
) -> tuple[ContextParameters, tuple[Gate, ...]]:
    sessions = {
        name: (Session(directory / model.file, "cpu", torch.get_num_threads()), model.input)
        for name, model in models.items()
    }
    family = replay.family_of(models, ContextParameters())
    tuned = proof.kinds(material.tune, scenes, plan.tuning_pools, 0, plan.frames, plan.seed, sessions, progress)
    for name, find in (("wander", gates.wander), ("candour", gates.candour)):
        if tuned:
            found = round(find([kind.apart for kind in tuned], family), 2)
            family = replace(family, context=msgspec.structs.replace(family.context, **{name: found}))
    proving = proof.kinds(material.prove, scenes, plan.pools, plan.typical, plan.frames, plan.seed, sessions, progress)
    if not proving:
        return family.context, tuple(Gate(budget, 0.0, _CONFIDENCE, 0, 0.0) for budget in _BUDGETS)
    risks = gates.fit(proving, family, _BUDGETS, _CONFIDENCE, workers=workers)
    entropies = [0.0] * len(_BUDGETS)
    if family.submodels:
        entropies = gates.fit(proving, family, _BUDGETS, _CONFIDENCE, replay.paper, gates.ENTROPIES, workers)
    least = min(len(kind.apart) for kind in proving)
    return family.context, tuple(
        Gate(budget, risk, _CONFIDENCE, least, nats)
        for budget, risk, nats in zip(_BUDGETS, risks, entropies, strict=True)
    )


def _key(*parts: object) -> str:
    """Tells results apart that were made from different things."""
    return digest(repr(parts).encode())[:16]
