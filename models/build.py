"""From a classifier and frames to a bundle: codes, partitions, base model, submodels, gates, manifest.

Every stage leaves its result in a work directory and is skipped when it is there, so an interrupted build goes on
where it stopped. The bundle appears under its name only when it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from rich.progress import Progress

from models import candidates, gates, partitions, proof, replay
from models.classifier import served
from models.export import export
from models.material import Material
from models.plan import Plan, key
from shared import files
from shared.bundle import FORMAT, MANIFEST, SIGNATURE, Bundle, Gate, Manifest, Model, digest
from shared.engine import Session
from shared.habits import ContextParameters
from shared.signing import Signer

_CONFIDENCE = 0.95
_BUDGETS = (0.005, 0.01, 0.02, 0.05)
#: Working sets that are drawn, for nobody knows all that will come together.
_DRAWN = 64


class BuildError(Exception):
    """A bundle that cannot be written where it was asked for; the message says why."""


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
    work = work / f"build-{key(digest(graph), digest(material.learn.scores.tobytes()), plan.seed)}"
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
    proposed = candidates.propose(plan, material, likely)
    networks = candidates.train(plan, material, proposed, full, work, progress)
    for name, network in networks.items():
        export(network.eval(), directory / name / "1" / "model.onnx", {**properties, "model": name})
    precision = candidates.lighten(plan, material, list(networks), directory, work, progress)
    choice = candidates.choose(plan, material, proposed, networks, likely, directory, progress)
    context, proven = _prove(plan, material, choice.models, scenes, directory, work, progress, workers)
    provenance = {
        "plan": digest(msgspec.json.encode(plan)),
        "frames": f"{len(material.learn)} to learn, {len(material.tune)} to tune, {len(material.prove)} to prove",
        **choice.found,
        "precision": precision,
        "torch": str(torch.__version__),
    }
    if material.tune.truth is not None:
        provenance["accuracy_tuned"] = f"{float((material.tune.answers == material.tune.truth).mean()):.4f}"
    return Manifest(FORMAT, plan.name, "classification", classifier.labels, choice.models, proven, context, provenance)


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
    path = work / f"proven-{key(digests, frames, scenes, plan)}.json"
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
    total = len(gates.GRID) + (len(gates.ENTROPIES) if family.submodels else 0)
    task = progress.add_task("gates", total=total)

    def tried() -> None:
        progress.advance(task)

    risks = gates.fit(proving, family, _BUDGETS, _CONFIDENCE, workers=workers, tried=tried)
    entropies = [0.0] * len(_BUDGETS)
    if family.submodels:
        entropies = gates.fit(proving, family, _BUDGETS, _CONFIDENCE, replay.paper, gates.ENTROPIES, workers, tried)
    progress.remove_task(task)
    least = min(len(kind.apart) for kind in proving)
    return family.context, tuple(
        Gate(budget, risk, _CONFIDENCE, least, nats)
        for budget, risk, nats in zip(_BUDGETS, risks, entropies, strict=True)
    )
