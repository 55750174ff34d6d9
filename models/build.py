"""From a classifier and frames to a bundle: codes, partitions, base model, submodels, gates, manifest.

Every stage leaves its result in a work directory and is skipped when it is there, so an interrupted build goes on
where it stopped. The bundle appears under its name only when it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from rich.progress import Progress

from models import candidates, golden, partitions, proving
from models.material import Material
from models.place import check_place, put
from models.plan import Plan, key
from models.proving import DRAWN
from shared import files
from shared.bundle import FORMAT, Bundle, Gate, Manifest, Model, digest
from shared.habits import ContextParameters
from shared.signing import Signer


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
    check_place(out)
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        manifest = _fill(plan, material, kept(plan.seed, material, work), building, progress, workers)
        return put(building, manifest, out, signer, golden.spread(material.tune.images))
    finally:
        shutil.rmtree(building, ignore_errors=True)


def kept(seed: int, material: Material, work: Path) -> Path:
    """Where in ``work`` results are kept: under what they come from and no more, so that with another number of
    submodels the teacher's scores and the base model stay as they are."""
    graph = material.classifier.graph.SerializeToString(deterministic=True)
    return work / f"build-{key(digest(graph), digest(material.learn.scores.tobytes()), seed)}"


def _fill(plan: Plan, material: Material, work: Path, directory: Path, progress: Progress, workers: int) -> Manifest:
    """Write every model into ``directory``; what is to be said of them."""
    classifier = material.classifier
    drawn = partitions.working_sets(material.learn.answers, len(classifier.labels), DRAWN, plan.seed)
    scenes = plan.scenes or tuple(drawn)
    # Known working sets are half of what is likely: devices will be put where nobody has thought of.
    known = plan.scenes * (DRAWN // len(plan.scenes) or 1) if plan.scenes else ()
    likely = [partitions.together(scene, len(classifier.labels)) for scene in (*known, *drawn)]
    proposed = candidates.propose(plan, material, likely)
    made = candidates.make(plan, material, proposed, directory, work, progress)
    precision = candidates.lighten(plan, material, made, directory, work, progress)
    choice = candidates.choose(plan, material, proposed, made, likely, directory, progress)
    context, proven = _prove(plan, material, choice.models, scenes, directory, work, progress, workers)
    provenance = {
        "plan": digest(msgspec.json.encode(plan)),
        "frames": f"{len(material.learn)} to learn, {len(material.tune)} to tune, {len(material.prove)} to prove",
        **choice.found,
        "base": "trained" if material.base is None else "given",
        "precision": precision,
        "torch": str(torch.__version__),
    }
    provenance |= proving.accuracy(material.tune)
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
    """See ``proving.prove``; taken from ``work`` where it is there already."""
    digests = [model.sha256 for model in models.values()]
    frames = digest(material.tune.scores.tobytes() + material.prove.scores.tobytes())
    path = work / f"proven-{key(digests, frames, scenes, plan)}.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=tuple[ContextParameters, tuple[Gate, ...]])
    proven = proving.prove(plan, material.tune, material.prove, models, scenes, directory, progress, workers)
    files.write(path, msgspec.json.encode(proven))
    return proven
