"""Classifiers of how many people are in a zone: none, one or several, as the full detector's objects say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress

from benchmarks import real_tasks
from benchmarks.literature.scene_reuse.places import ZONE_GENERAL, ZONE_PLACES, Place, Segment
from benchmarks.literature.scene_reuse.trial import Outcomes
from benchmarks.real_tasks import BASE, INPUT
from cachenet.models.certify.intervals import Counts
from cachenet.models.certify.traces import as_pictures, run_model
from cachenet.models.detect.footage import Block
from cachenet.models.export.export import export
from cachenet.models.train import fine_tune, recent
from cachenet.models.train.networks import ResNet, Shape
from cachenet.models.train.training import Batch, fit, label_loss
from cachenet.shared.bundle.manifest import FORMAT, MANIFEST, Bundle, Manifest, Model, file_digest
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.engine import Session

LABELS = ("none", "one", "several")
#: Least probability of a label of the full model.
_LEAST = 1e-3


def state_logits(found: Detections, threshold: float) -> npt.NDArray[np.float32]:
    """Log-probabilities of ``LABELS`` from the objects in a zone, as if each were there with its own probability.

    An object of the full model's ``threshold`` is there with a probability of one half.
    """
    scores = np.clip(found.scores.astype(np.float64), 1e-3, 1 - 1e-3)
    odds = scores / (1 - scores) * (1 - threshold) / threshold
    none = float(np.prod(1 / (1 + odds)))
    one = none * float(odds.sum())
    found_probabilities = np.clip([none, one, 1 - none - one], _LEAST, 1)
    logits: npt.NDArray[np.float32] = np.log(found_probabilities / found_probabilities.sum()).astype(np.float32)
    return logits


def footage(block: Block) -> recent.Footage:
    """A block as the server's training of classifiers takes it."""
    logits = np.stack([state_logits(found, block.score) for found in block.objects])
    return recent.Footage(block.pictures, logits, [])


def joined(segments: Sequence[Segment]) -> recent.Blocks:
    """The frames of segments, each divided by time as the server does."""
    parts = [recent.divide(footage(one.block)) for one in segments]

    def together(use: str) -> recent.Footage:
        every = [getattr(part, use) for part in parts]
        return recent.Footage(
            np.concatenate([one.images for one in every]), np.concatenate([one.full for one in every]), []
        )

    return recent.Blocks(*(together(use) for use in ("learn", "tune", "proof")))


def _general(segments: Sequence[Segment], work: Path, epochs: int, progress: Progress) -> Bundle:
    """The bundle of a general model that is trained on ``segments``, or that of an earlier run."""
    if not (work / "bundle" / MANIFEST).exists():
        every = [footage(one.block) for one in segments]
        images = np.concatenate([one.images for one in every])
        labels = np.concatenate([one.labels for one in every])
        torch.manual_seed(0)
        network = ResNet(Shape(*BASE, len(LABELS), real_tasks.STEM))
        recipe = replace(real_tasks.RECIPE, phases=((epochs, INPUT.side),))
        steps, checkpoint = real_tasks.STEPS, work / "general.pt"
        weights = 1 / np.sqrt(np.bincount(labels)[labels])

        def batches(_epoch: int, rng: np.random.Generator) -> Iterator[Batch]:
            for _ in range(steps):
                rows = rng.choice(len(images), recipe.batch, p=weights / weights.sum())
                yield fine_tune.augment(images[rows], rng), torch.from_numpy(labels[rows])

        work.mkdir(parents=True, exist_ok=True)
        fit(network, INPUT, recipe, batches, steps, label_loss(recipe), checkpoint, progress, "general")
        models = {}
        # The training reads only the base model, but a bundle needs a full model too.
        for role in ("base", "full"):
            file = work / "bundle" / role / "1" / "model.onnx"
            file.parent.mkdir(parents=True, exist_ok=True)
            export(network.eval(), file, {})
            about = str(file.relative_to(work / "bundle")), file.stat().st_size, file_digest(file)
            rest = INPUT, 1.0, network.parameters_count(), 1, 1.0, (0.0,) * len(LABELS)
            models[role] = Model(role, *about, *rest)  # type: ignore[arg-type]
        manifest = Manifest(FORMAT, "zones", "classification", LABELS, models, {})
        atomic_files.write(work / "bundle" / MANIFEST, msgspec.json.encode(manifest))
    return Bundle(work / "bundle")


class Zones:
    """The classifiers: their places, and how they are trained and run."""

    name = "classifiers"
    places: Sequence[Place] = ZONE_PLACES
    general_places: Sequence[Place] = ZONE_GENERAL
    input = INPUT
    labels = len(LABELS)

    def __init__(self, work: Path, epochs: int, progress: Progress) -> None:
        self.work, self._epochs, self._progress = work, epochs, progress

    def label(self, block: Block) -> npt.NDArray[np.int64]:
        """Label of the full model on each frame, for the mix ``(n,)``."""
        return footage(block).labels

    def general(self, segments: Sequence[Segment]) -> Path:
        """Train the general model, unless it is there; return its file."""
        return _general(segments, self.work, self._epochs, self._progress).path("base")

    def submodel(self, segments: Sequence[Segment], path: Path) -> None:
        """Train a submodel from the general model and write it to ``path``."""
        bundle, checkpoint = Bundle(self.work / "bundle"), path.with_suffix(".pt")
        network, *_ = fine_tune.train(bundle, "base", joined(segments), checkpoint, self._progress, path.stem)
        atomic_files.write(path, network.model().SerializeToString(deterministic=True))

    def outcomes(self, model: Path, blocks: Sequence[Block], footage_frames: int, gap: int) -> list[Outcomes]:
        """The answers of a model to each block against the full model's; see ``Outcomes``."""
        session, first, found = Session(model, "cpu"), slice(0, footage_frames), []
        for block in blocks:
            logits, wanted = run_model(session, INPUT, as_pictures(block.pictures)), footage(block).labels
            certainty = np.log(np.maximum(softmax(logits[first]), 1e-6))[np.arange(footage_frames), wanted[first]]
            counts = agreement_counts(logits.argmax(1), wanted)
            found.append(Outcomes(counts[first], certainty, counts[footage_frames + gap :]))
        return found


def agreement_counts(labels: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> Counts:
    """Counts of answers ``(n, 3)`` whose F1 is the agreement; see ``Outcomes``."""
    right = labels == wanted
    return np.stack([right, ~right, ~right], 1).astype(np.int64)
