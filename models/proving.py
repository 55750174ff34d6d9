"""Proving: what a bundle may promise, found on frames that nothing was trained on; when it is built, or later on
frames of another place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from rich.progress import Progress

from models import gates, partitions, proof, recorded, replay
from models.distil import mix
from models.material import Part
from models.place import check_place, lay, put
from models.plan import Plan
from models.training import sense
from shared.bundle import Bundle, Gate, Model
from shared.cascade.probability import fit_temperature
from shared.engine import Session
from shared.habits import ContextParameters
from shared.image import Input
from shared.signing import Signer

_CONFIDENCE = 0.95
_BUDGETS = (0.005, 0.01, 0.02, 0.05)
#: A local model's threshold on doubt when its coverage is measured.
_SURE = 0.05
#: Working sets that are drawn, for nobody knows all that will come together.
DRAWN = 64


def again(
    plan: Plan,
    bundle: Bundle,
    tune: Part,
    prove_: Part,
    out: Path,
    progress: Progress,
    workers: int = 1,
    signer: Signer | None = None,
) -> Bundle:
    """Write ``bundle`` to ``out`` with temperatures, coverage, context and gates as other frames show them. Raises
    ``PlaceError`` and ``OSError``."""
    check_place(out)
    old, full = bundle.manifest, bundle.manifest.only("full")
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        lay(bundle, old.models, building)
        paths = {name: building / model.file for name, model in old.models.items()}
        special = {name: model.classes for name, model in old.models.items() if model.classes}
        inputs = {name: model.input for name, model in old.models.items()}
        degrees, coverage = measure(tune, inputs, full, paths, special, plan.seed, progress)
        models = {
            name: msgspec.structs.replace(model, temperature=degrees[name], coverage=coverage[name])
            for name, model in old.models.items()
        }
        scenes = plan.scenes or tuple(partitions.working_sets(tune.answers, len(old.labels), DRAWN, plan.seed))
        context, proven = prove(plan, tune, prove_, models, scenes, building, progress, workers)
        about = {"proven": f"again, with {len(tune)} frames to tune and {len(prove_)} to prove", **accuracy(tune)}
        manifest = msgspec.structs.replace(
            old, models=models, gates=proven, context=context, provenance={**old.provenance, **about}
        )
        return put(building, manifest, out, signer)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def accuracy(tune: Part) -> dict[str, str]:
    """The full model's, where anybody knows it, for people."""
    if tune.truth is None:
        return {}
    return {"accuracy_tuned": f"{float((tune.answers == tune.truth).mean()):.4f}"}


def measure(
    tune: Part,
    inputs: Mapping[str, Input],
    full: str,
    paths: Mapping[str, Path],
    special: Mapping[str, Sequence[int]],
    seed: int,
    progress: Progress,
) -> tuple[dict[str, float], dict[str, tuple[float, ...]]]:
    """Temperatures and coverage by name, on frames as they are and as a camera sees them. ``special``: the labels of
    models that are for some of them."""
    sensed = sense(tune.images, np.random.default_rng(seed))
    pictures = recorded.as_pictures(np.concatenate([tune.images, sensed]))
    logits = {
        name: recorded.run(Session(path, "cpu", torch.get_num_threads()), inputs[name], pictures, tune.seen)
        for name, path in progress.track(paths.items(), description="what each is worth")
    }
    answers = logits[full].argmax(1)

    def degree(name: str) -> float:
        # Of the full model we ask whether it is right, where anybody knows; of a local one, whether it says what the
        # full model would, and of a submodel that where it is used.
        if name == full:
            return 1.0 if tune.truth is None else fit_temperature(logits[full], np.tile(tune.truth, 2))
        return fit_temperature(logits[name], answers, mix(np.isin(answers, special[name])) if name in special else None)

    degrees = {name: round(degree(name), 4) for name in logits}
    coverage = {name: gates.coverage(own, degrees[name], logits[full], _SURE) for name, own in logits.items()}
    return degrees, {name: tuple(round(float(share), 4) for share in own) for name, own in coverage.items()}


def prove(
    plan: Plan,
    tune: Part,
    prove_: Part,
    models: Mapping[str, Model],
    scenes: Sequence[tuple[int, ...]],
    directory: Path,
    progress: Progress,
    workers: int,
) -> tuple[ContextParameters, tuple[Gate, ...]]:
    """The context's parameters from streams of the tuning frames, and gates from streams of the proving frames: 0, so
    that every frame is asked about, where there are too few for either. ``scenes``: labels that come together."""
    sessions = {
        name: (Session(directory / model.file, "cpu", torch.get_num_threads()), model.input)
        for name, model in models.items()
    }
    family = replay.family_of(models, ContextParameters())
    tuned = proof.kinds(tune, scenes, plan.tuning_pools, 0, plan.frames, plan.seed, sessions, progress)
    for name, find in (("wander", gates.wander), ("candour", gates.candour)):
        if tuned:
            found = round(find([kind.apart for kind in tuned], family), 2)
            family = replace(family, context=msgspec.structs.replace(family.context, **{name: found}))
    proving = proof.kinds(prove_, scenes, plan.pools, plan.typical, plan.frames, plan.seed, sessions, progress)
    if not proving:
        return family.context, tuple(Gate(budget, 0.0, _CONFIDENCE, 0, 0.0) for budget in _BUDGETS)
    # The paper's rule is one for submodels.
    searches = [gates.OURS, *([gates.PAPER] if family.submodels else [])]
    task = progress.add_task("gates", total=sum(len(search.grid) for search in searches))
    proven = gates.fit(proving, family, _BUDGETS, _CONFIDENCE, searches, workers, lambda: progress.advance(task))
    progress.remove_task(task)
    risks, entropies = (*proven, [0.0] * len(_BUDGETS))[:2]
    least = min(len(kind.apart) for kind in proving)
    return family.context, tuple(
        Gate(budget, risk, _CONFIDENCE, least, nats)
        for budget, risk, nats in zip(_BUDGETS, risks, entropies, strict=True)
    )
