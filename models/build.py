"""From a classifier and frames to a bundle: codes, partitions, base model, submodels, certificates, manifest.

Every stage leaves its result in a work directory and is skipped when it is there, so an interrupted build goes on
where it stopped. The bundle appears under its name only when it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from rich.progress import Progress

from cachenet.models.build_config import BuildConfig, key
from cachenet.models.bundle_writer import check_place, put
from cachenet.models.certify import calibrate, golden_frames
from cachenet.models.certify.certify import Certified, certify
from cachenet.models.certify.recertify import with_certified
from cachenet.models.data.dataset import Dataset
from cachenet.models.train import candidates, partitions
from cachenet.shared.bundle.manifest import FORMAT, Bundle, Manifest, Model, digest
from cachenet.shared.bundle.trust import Signer
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.engine import Session

#: Working sets that are drawn, for nobody knows all that will come together.
_DRAWN = 64


def build(
    plan: BuildConfig,
    material: Dataset,
    work: Path,
    out: Path,
    progress: Progress,
    signer: Signer | None = None,
) -> Bundle:
    """Make what is missing in ``work`` and write the bundle to ``out``, in the place of any before. Raises
    ``BuildError`` where something else is in that place, and ``OSError`` if it cannot be written."""
    check_place(out)
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        manifest = _fill(plan, material, kept(plan.seed, material, work), building, progress)
        return put(building, manifest, out, signer, golden_frames.spread(material.tune.images))
    finally:
        shutil.rmtree(building, ignore_errors=True)


def kept(seed: int, material: Dataset, work: Path) -> Path:
    """Where in ``work`` results are kept: under what they come from and no more, so that with another number of
    submodels the teacher's scores and the base model stay as they are."""
    graph = material.classifier.graph.SerializeToString(deterministic=True)
    return work / f"build-{key(digest(graph), digest(material.learn.scores.tobytes()), seed)}"


def _fill(plan: BuildConfig, material: Dataset, work: Path, directory: Path, progress: Progress) -> Manifest:
    """Write every model into ``directory``; what is to be said of them."""
    plan = replace(plan, shares=candidates.quick_shares(plan, material, work))
    classifier = material.classifier
    drawn = partitions.working_sets(material.learn.answers, len(classifier.labels), _DRAWN, plan.seed)
    # Known working sets are half of what is likely: devices will be put where nobody has thought of.
    known = plan.scenes * (_DRAWN // len(plan.scenes) or 1) if plan.scenes else ()
    likely = [partitions.together(scene, len(classifier.labels)) for scene in (*known, *drawn)]
    proposed = candidates.propose(plan, material, likely)
    made = candidates.make(plan, material, proposed, directory, work, progress)
    precision = candidates.lighten(plan, material, made, directory, work, progress)
    choice = candidates.choose(plan, material, proposed, made, likely, directory, progress)
    found = _certified(plan, material, choice.models, directory, work, progress)
    provenance = {
        "plan": digest(msgspec.json.encode(plan)),
        "frames": f"{len(material.learn)} to learn, {len(material.tune)} to tune, {len(material.prove)} to prove",
        **choice.found,
        "base": "trained" if material.base is None else "given",
        "precision": precision,
        "torch": str(torch.__version__),
    }
    manifest = Manifest(FORMAT, plan.name, "classification", classifier.labels, choice.models, provenance)
    return with_certified(manifest, found, calibrate.accuracy(material.tune), trained=material.base is None)


def _certified(
    plan: BuildConfig, material: Dataset, models: Mapping[str, Model], directory: Path, work: Path, progress: Progress
) -> Certified:
    """See ``certify``; taken from ``work`` where it is there already."""
    digests = [model.sha256 for model in models.values()]
    frames = digest(material.tune.scores.tobytes() + material.prove.scores.tobytes())
    path = work / f"certified-{key(digests, frames, plan)}.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Certified)
    sessions = {
        name: (Session(directory / model.file, "cpu", torch.get_num_threads()), model.input)
        for name, model in models.items()
    }
    found = certify(plan, material.tune, material.prove, models, sessions, progress)
    atomic_files.write(path, msgspec.json.encode(found))
    return found
