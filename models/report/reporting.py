"""Measures a finished bundle on frames that it was not built from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress

from cachenet.models.certify import traces
from cachenet.models.certify.footage import restrict
from cachenet.models.certify.traces import Labels, Logits, RecordedStream
from cachenet.models.data import streams
from cachenet.models.data.cifar10 import LABELS
from cachenet.models.data.dataset import LabelledFrames
from cachenet.models.data.scenes import SCENES, UNSEEN
from cachenet.models.exits.evaluate import evaluate
from cachenet.models.report import scores, tables
from cachenet.models.train import clusters
from cachenet.shared.bundle.manifest import Bundle, ExitKind, Manifest
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT
from cachenet.shared.inference.engine import Session
from cachenet.shared.media.signature import sign

#: Clusters of the map for each label.
_FINE = 4
#: Frames of the map.
_POINTS = 3000
#: Pairs of confused labels.
_PAIRS = 12
#: Points of a curve.
_STEPS = 100
_SCENES = [scene.classes for scene in SCENES]


@dataclass(frozen=True)
class Map:
    """Embeddings of frames and cluster centres in two principal directions ``(n, 2)`` and ``(k, 2)``, and labels."""

    points: npt.NDArray[np.float64]
    labels: Labels
    centres: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Report:
    """``results``: as ``--json`` prints them; ``curves``: coverage and risk of the base model, by score."""

    manifest: Manifest
    results: dict[str, Any]
    curves: dict[str, list[tuple[float, float]]]
    map: Map


def report(
    bundle: Bundle, part: LabelledFrames, count: int, frames: int, first_seed: int, progress: Progress
) -> Report:
    """Measure ``bundle`` on ``part``.

    The cascade is replayed over footage as it comes. CIFAR-10's images are not footage: streams are drawn from them.

    Args:
        count: Streams that are drawn.
        frames: Length of a drawn stream.
        first_seed: Seed of the first drawn stream.
    """
    manifest = bundle.manifest
    family = traces.family_of(manifest)
    pictures = traces.as_pictures(part.images)
    task = progress.add_task("models", total=len(manifest.models) - 1)
    logits: dict[str, Logits] = {family.full: part.scores}  # the full model has labelled the frames
    for name in (family.base, *family.submodels):
        session = Session(bundle.path(name), "cpu", torch.get_num_threads())
        logits[name] = traces.run_model(session, manifest.models[name].input, pictures, part.full_input)
        progress.advance(task)
    progress.remove_task(task)
    recorded = RecordedStream(part.full_labels, logits, [sign(picture) for picture in pictures])

    answers = part.scores.argmax(1)
    right = {name: own.argmax(1) == answers for name, own in logits.items()}
    local = [name for name in logits if name != family.full]
    uncertainty = {name: _uncertainty(logits[name], family.temperatures[name], right[name]) for name in local}
    results = {
        "name": manifest.name,
        "version": bundle.version,
        "signed": bundle.signed,
        "frames": len(part),
        "models": {
            name: tables.model_row(manifest.models[name])
            | {
                "accuracy": None if part.truth is None else float((own.argmax(1) == part.truth).mean()),
                "agreement": float(right[name].mean()),
            }
            for name, own in logits.items()
        },
        "scores": {
            name: {
                score: {
                    "area": scores.area(values, right[name]),
                    "coverage_at_0.01": scores.coverage_at(0.01, values, right[name]),
                }
                for score, values in own.items()
            }
            for name, own in uncertainty.items()
        },
        "certificates": msgspec.to_builtins(manifest.certificates),
        "replays": _replays(manifest, part, recorded, count, frames, first_seed, progress),
        "confusions": {name: _confusions(logits[name].argmax(1), answers, manifest.labels) for name in local},
        "layers": _exits(bundle, part, progress),
        "provenance": manifest.provenance,
    }
    base = uncertainty[family.base]
    curves = {score: _thin(*scores.curve(values, right[family.base])) for score, values in base.items()}
    return Report(manifest, results, curves, _map(part, answers))


def _exits(bundle: Bundle, part: LabelledFrames, progress: Progress) -> dict[ExitKind, dict[str, Any]]:
    task = progress.add_task("early exits", total=len(part), visible=bool(bundle.manifest.layers))
    found = evaluate(bundle, part, torch.get_num_threads(), lambda done: progress.update(task, completed=done))
    progress.remove_task(task)
    return found


def _uncertainty(logits: Logits, temperature: float, right: npt.NDArray[np.bool_]) -> dict[str, scores.Uncertainty]:
    return {**scores.uncertainty_scores(logits, temperature), "learned": scores.learned(logits, temperature, right)}


def _replays(
    manifest: Manifest,
    part: LabelledFrames,
    recorded: RecordedStream,
    count: int,
    frames: int,
    first_seed: int,
    progress: Progress,
) -> dict[str, dict[str, dict[str, float]]]:
    """Replay the cascade at the default budget, without audits.

    Returns:
        Shares of frames ``asked`` and in ``disagreement`` with the full model, by set of models and by stream. Sets:
        ``selected``, the submodels for some labels; ``same_size_generalist``, only a general model of their size;
        ``all`` models. Streams: ``footage``, or ``session`` with all scenes and with the unseen ones.
    """
    shown: dict[str, list[RecordedStream]] = {}
    restricted = restrict(part, _SCENES) if manifest.labels == LABELS and part.truth is not None else None
    if restricted is not None and restricted[2] == _SCENES:
        labels = restricted[0].labels
        for where, scenes in {"session": range(len(SCENES)), "session, unseen": UNSEEN}.items():
            schedules = [
                streams.schedule("session", labels, seed, frames, None, scenes)
                for seed in range(first_seed, first_seed + count)
            ]
            shown[where] = [traces.select(recorded, one.source, one.label) for one in schedules]
    else:
        shown["footage"] = [traces.select(recorded, run, part.full_labels[run]) for run in part.runs]
    same_size, family = traces.same_size_family(manifest), traces.family_of(manifest)
    sets = {"selected": same_size, "same_size_generalist": same_size.general_only(), "all": family}
    task = progress.add_task("replays", total=len(sets) * sum(map(len, shown.values())))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, own in sets.items():
        found[name] = {}
        for where, several in shown.items():
            asked, wrong = [], []
            for stream in several:
                run = traces.replay(stream, own, traces.device_cascade(stream, own, MAX_DISAGREEMENT))
                asked.append(run.asked)
                wrong.append(disagreements(run.labels, stream.trace(own).labels))
                progress.advance(task)
            found[name][where] = {
                "asked": float(np.concatenate(asked).mean()),
                "disagreement": float(np.concatenate(wrong).mean()),
            }
    progress.remove_task(task)
    return found


def _confusions(own: Labels, answers: Labels, labels: Sequence[str]) -> list[dict[str, str | int]]:
    """The most frequent differences from the full model."""
    pairs, counts = np.unique(np.stack([answers, own])[:, own != answers], axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_PAIRS]
    return [
        {"full": labels[pairs[0, i]], "says": labels[pairs[1, i]], "frames": int(counts[i])} for i in order.tolist()
    ]


def _thin(coverage: npt.NDArray[np.float64], risk: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    """At most ``_STEPS`` points of a curve."""
    at = np.unique(np.linspace(0, len(coverage) - 1, _STEPS).astype(int))
    return list(zip(coverage[at].tolist(), risk[at].tolist(), strict=True))


def _map(part: LabelledFrames, answers: Labels) -> Map:
    rows = clusters.unit(part.embeddings).astype(np.float64)
    mean = rows.mean(0)
    _, _, directions = np.linalg.svd((rows - mean)[:: max(1, len(rows) // _POINTS)], full_matrices=False)
    plane = directions[:2].T
    centres = clusters.fit(part.embeddings, min(_FINE * len(np.unique(answers)), len(rows) // 4, 256), 0)
    shown = np.arange(0, len(rows), max(1, len(rows) // _POINTS))
    return Map((rows[shown] - mean) @ plane, answers[shown], (centres - mean) @ plane)
