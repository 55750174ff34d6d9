"""Builds a bundle from a classifier and frames: clusters, partitions, base model, submodels, certificates, manifest.

Each stage keeps its result in a work directory and is skipped if its result is there. So an interrupted build resumes.
The bundle appears under its name when it is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from rich.progress import Progress

from cachenet.models.build_config import BuildConfig, key
from cachenet.models.bundle_writer import publish, under_construction
from cachenet.models.certify import calibrate, golden_frames
from cachenet.models.certify.certify import Certification, certify
from cachenet.models.certify.recertify import with_certified
from cachenet.models.data.dataset import Dataset
from cachenet.models.train import candidates, local_models, partitions, precision
from cachenet.shared.bundle.manifest import FORMAT, Bundle, Manifest, Model, digest
from cachenet.shared.command import atomic_files, jobs
from cachenet.shared.inference.engine import Session

#: Working sets that are drawn at random, in addition to the user's scenes.
_DRAWN = 64


def build(
    config: BuildConfig,
    dataset: Dataset,
    work: Path,
    out: Path,
    progress: Progress,
    run: jobs.Run = jobs.in_process,
) -> Bundle:
    """Build a bundle at ``out``, in place of any bundle there.

    Args:
        dataset: Frames with the full model's outputs.
        work: Directory of intermediate results.
        run: Where networks are trained.

    Raises:
        PlaceError: Something other than a bundle is at ``out``.
        OSError: The bundle cannot be written.
    """
    with under_construction(out) as building:
        manifest = _fill(config, dataset, results_directory(config.seed, dataset, work), building, progress, run)
        return publish(building, manifest, out, golden_frames.choose(dataset.tune.images))


def results_directory(seed: int, dataset: Dataset, work: Path) -> Path:
    """The directory in ``work`` of a build's intermediate results.

    Its name depends only on the full model, its outputs and the seed. So a build with another number of submodels uses
    the same teacher logits and base model.
    """
    graph = dataset.classifier.graph.SerializeToString(deterministic=True)
    return work / f"build-{key(digest(graph), digest(dataset.learn.scores.tobytes()), seed)}"


def _fill(
    config: BuildConfig, dataset: Dataset, work: Path, directory: Path, progress: Progress, run: jobs.Run
) -> Manifest:
    """Write all models into ``directory``, and return their manifest."""
    config = replace(config, shares=candidates.affordable_shares(config, dataset, work))
    classifier = dataset.classifier
    drawn = partitions.draw_working_sets(dataset.learn.full_labels, len(classifier.labels), _DRAWN, config.seed)
    # The user's scenes get half of the weight, because devices will also see other working sets.
    scenes = config.scenes * (_DRAWN // len(config.scenes) or 1) if config.scenes else ()
    likely = [partitions.uniform_working_set(scene, len(classifier.labels)) for scene in (*scenes, *drawn)]
    proposed = candidates.propose(config, dataset, likely)
    made = local_models.build_models(config, dataset, proposed, directory, work, progress, run)
    decision = precision.quantise_if_faster(config, dataset, made, directory, work, progress)
    choice = local_models.select(config, dataset, proposed, made, likely, directory, progress)
    found = _certified(config, dataset, choice.models, directory, work, progress)
    provenance = {
        "plan": digest(msgspec.json.encode(config)),
        "frames": f"{len(dataset.learn)} to learn, {len(dataset.tune)} to tune, {len(dataset.prove)} to prove",
        **({"region": config.region} if config.region else {}),
        **choice.found,
        "base": "trained" if dataset.base is None else "given",
        "precision": decision,
        "torch": str(torch.__version__),
    }
    manifest = Manifest(FORMAT, config.name, "classification", classifier.labels, choice.models, provenance)
    return with_certified(manifest, found, calibrate.accuracy(dataset.tune), trained=dataset.base is None)


def _certified(
    config: BuildConfig, dataset: Dataset, models: Mapping[str, Model], directory: Path, work: Path, progress: Progress
) -> Certification:
    """Certify the models in ``directory``, or read the result from ``work``."""
    digests = [model.sha256 for model in models.values()]
    frames = digest(dataset.tune.scores.tobytes() + dataset.prove.scores.tobytes())
    path = work / f"certified-{key(digests, frames, config)}.json"
    if path.exists():
        return msgspec.json.decode(path.read_bytes(), type=Certification)
    sessions = {
        name: (Session(directory / model.file, "cpu", torch.get_num_threads()), model.input)
        for name, model in models.items()
    }
    found = certify(config, dataset.tune, dataset.prove, models, sessions, progress)
    atomic_files.write(path, msgspec.json.encode(found))
    return found
