"""What a finished bundle is worth, measured on frames that it was not made from: figures for a table, a program and a
page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from rich.progress import Progress

from cachenet.models.certify import recorded, replay
from cachenet.models.certify.footage import cast
from cachenet.models.certify.replay import Logits, Recorded
from cachenet.models.data import streams
from cachenet.models.data.cifar10 import LABELS
from cachenet.models.data.dataset import LabelledFrames
from cachenet.models.data.scenes import SCENES, UNSEEN
from cachenet.models.exits import evaluate as layers
from cachenet.models.report import scores
from cachenet.models.train import clusters
from cachenet.shared.bundle.manifest import Bundle, Manifest, Way
from cachenet.shared.cascade.frame import Signature
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT
from cachenet.shared.inference.engine import Session
from cachenet.shared.media.signature import sign

#: Codes of the map for each label.
_FINE = 4
#: Frames of the map, pairs of labels that are confused, and points of a curve.
_POINTS, _PAIRS, _STEPS = 3000, 12, 100
_TABLE = [scene.classes for scene in SCENES]


@dataclass(frozen=True)
class Map:
    """Embeddings in their two principal directions: ``points`` ``(n, 2)`` of frames with these ``labels`` ``(n,)``, and
    the ``centres`` ``(k, 2)`` of the codes."""

    points: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    centres: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Report:
    """``figures``: as ``--json`` prints them. ``curves``: by score, coverage and risk of the base model."""

    manifest: Manifest
    figures: dict[str, Any]
    curves: dict[str, list[tuple[float, float]]]
    map: Map


def report(
    bundle: Bundle, part: LabelledFrames, count: int, frames: int, first_seed: int, progress: Progress
) -> Report:
    """Measure ``bundle`` on ``part``. Its cascade is replayed over the footage as it came; over ``count`` streams of
    ``frames`` frames drawn from it where it is CIFAR-10's labelled images, which are no footage."""
    manifest = bundle.manifest
    family = replay.family(manifest)
    pictures = recorded.as_pictures(part.images)
    task = progress.add_task("models", total=len(manifest.models) - 1)
    said: dict[str, Logits] = {family.full: part.scores}  # it has looked already
    for name in (family.base, *family.submodels):
        session = Session(bundle.path(name), "cpu", torch.get_num_threads())
        said[name] = recorded.run(session, manifest.models[name].input, pictures, part.seen)
        progress.advance(task)
    progress.remove_task(task)

    answers = said[family.full].argmax(1)
    right = {name: own.argmax(1) == answers for name, own in said.items()}
    locals_ = [name for name in said if name != family.full]
    doubts = {name: _doubts(said[name], family.temperatures[name], right[name]) for name in locals_}
    figures = {
        "name": manifest.name,
        "version": bundle.version,
        "signed": bool(bundle.signature),
        "frames": len(part),
        "models": {name: _model(manifest, name, own, right[name], part) for name, own in said.items()},
        "scores": {
            name: {
                score: {
                    "area": scores.area(doubt, right[name]),
                    "coverage_at_0.01": scores.coverage_at(0.01, doubt, right[name]),
                }
                for score, doubt in own.items()
            }
            for name, own in doubts.items()
        },
        "certificates": msgspec.to_builtins(manifest.certificates),
        "replays": _replays(manifest, part, said, count, frames, first_seed, progress),
        "confusions": {name: _confusions(said[name].argmax(1), answers, manifest.labels) for name in locals_},
        "layers": _layers(bundle, part, progress),
        "provenance": manifest.provenance,
    }
    curves = {score: _thin(*scores.curve(doubt, right[family.base])) for score, doubt in doubts[family.base].items()}
    return Report(manifest, figures, curves, _map(part, answers))


def _layers(bundle: Bundle, part: LabelledFrames, progress: Progress) -> dict[Way, dict[str, Any]]:
    """Of the caches between the full model's layers."""
    task = progress.add_task("layers", total=len(part), visible=bool(bundle.manifest.layers))
    found = layers.figures(bundle, part, torch.get_num_threads(), lambda done: progress.update(task, completed=done))
    progress.remove_task(task)
    return found


def _model(
    manifest: Manifest, name: str, said: Logits, right: npt.NDArray[np.bool_], part: LabelledFrames
) -> dict[str, float | str | None]:
    model = manifest.models[name]
    return {
        "role": model.role,
        "parameters": model.parameters,
        "macs": model.macs,
        "bytes": model.bytes,
        "ms": model.milliseconds,
        "accuracy": None if part.truth is None else float((said.argmax(1) == part.truth).mean()),
        "agreement": float(right.mean()),
    }


def _doubts(logits: Logits, temperature: float, right: npt.NDArray[np.bool_]) -> dict[str, scores.Doubts]:
    return {**scores.doubts(logits, temperature), "learned": scores.learned(logits, temperature, right)}


def _replays(
    manifest: Manifest,
    part: LabelledFrames,
    said: Mapping[str, Logits],
    count: int,
    frames: int,
    first_seed: int,
    progress: Progress,
) -> dict[str, dict[str, dict[str, float]]]:
    """What the cascade does at the default budget, without audits: shares of frames ``asked`` and in disagreement with
    the full model, ``selected`` with every submodel there, ``same_size_generalist`` with a general model of their size
    alone, and with ``all`` that there are; by what was replayed, ``footage`` or the ``session`` streams of all scenes
    and of the unseen ones."""
    pictures = [sign(picture) for picture in recorded.as_pictures(part.images)]
    replayed: dict[str, list[Recorded]] = {}
    if manifest.labels == LABELS and part.truth is not None and (split_ := cast(part, _TABLE))[2] == _TABLE:
        split = split_[0]
        for where, numbers in {"session": range(len(SCENES)), "session, unseen": UNSEEN}.items():
            plans = [
                streams.plan("session", split.labels, seed, frames, None, numbers)
                for seed in range(first_seed, first_seed + count)
            ]
            replayed[where] = [_taken(said, pictures, plan.label, plan.source) for plan in plans]
    else:
        replayed["footage"] = [_taken(said, pictures, part.answers[run], run) for run in part.runs]
    alike, family = replay.of_one_size(manifest), replay.family(manifest)
    ways = {"selected": alike, "same_size_generalist": alike.generalists(), "all": family}
    task = progress.add_task("replays", total=len(ways) * sum(map(len, replayed.values())))
    found: dict[str, dict[str, dict[str, float]]] = {}
    for way, own in ways.items():
        found[way] = {}
        for where, several in replayed.items():
            asked, wrong = [], []
            for stream in several:
                run = replay.run(stream, own, replay.cascade(stream, own, MAX_DISAGREEMENT))
                asked.append(run.asked)
                wrong.append(disagreements(run.labels, stream.trace(own).labels))
                progress.advance(task)
            shares = {"asked": float(np.concatenate(asked).mean()), "disagreement": float(np.concatenate(wrong).mean())}
            found[way][where] = shares
    progress.remove_task(task)
    return found


def _taken(
    said: Mapping[str, Logits], pictures: Sequence[Signature], truth: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> Recorded:
    """A stream that shows the pictures ``rows`` in order."""
    own = {name: logits[rows] for name, logits in said.items()}
    return Recorded(truth, own, [pictures[row] for row in rows.tolist()])


def _confusions(
    own: npt.NDArray[np.int64], answers: npt.NDArray[np.int64], labels: Sequence[str]
) -> list[dict[str, str | int]]:
    """The commonest ways to differ from the full model."""
    pairs, counts = np.unique(np.stack([answers, own])[:, own != answers], axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_PAIRS]
    return [
        {"full": labels[pairs[0, i]], "says": labels[pairs[1, i]], "frames": int(counts[i])} for i in order.tolist()
    ]


def _thin(coverage: scores.Doubts, risk: scores.Doubts) -> list[tuple[float, float]]:
    at = np.unique(np.linspace(0, len(coverage) - 1, _STEPS).astype(int))
    return list(zip(coverage[at].tolist(), risk[at].tolist(), strict=True))


def _map(part: LabelledFrames, answers: npt.NDArray[np.int64]) -> Map:
    rows = clusters.unit(part.embeddings).astype(np.float64)
    middle = rows.mean(0)
    _, _, directions = np.linalg.svd((rows - middle)[:: max(1, len(rows) // _POINTS)], full_matrices=False)
    flat = directions[:2].T
    centres = clusters.fit(part.embeddings, min(_FINE * len(np.unique(answers)), len(rows) // 4, 256), 0)
    some = np.arange(0, len(rows), max(1, len(rows) // _POINTS))
    return Map((rows[some] - middle) @ flat, answers[some], (centres - middle) @ flat)
