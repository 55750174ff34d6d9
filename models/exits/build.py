"""Caches between the layers of a bundle's full model: recorded, taught, composed, and proven as they will run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import ModelProto
from rich.progress import Progress

from cachenet.models.build_config import key
from cachenet.models.bundle_writer import check_place, lay_files, put
from cachenet.models.certify.recorded import as_pictures
from cachenet.models.data.dataset import Dataset, LabelledFrames
from cachenet.models.exits import activations, certify
from cachenet.models.exits.heads import HeadData, HeadTimes, TrainedHead, teach, times
from cachenet.models.exits.select import compose
from cachenet.models.exits.sites import Cut, cuts, shapes
from cachenet.shared.bundle.manifest import (
    WAYS,
    Bundle,
    Layer,
    Layers,
    Way,
    file_digest,
    layer_file,
)
from cachenet.shared.bundle.trust import Signer
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.graph_split import SplitModel, read
from cachenet.shared.inference.image import Input

#: Frames that caches learn from at the most.
_LEARN = 24_000
_CONFIDENCE = 0.95


class LayersError(UserError):
    """A full model that caches cannot be made for; the message says why."""


@dataclass(frozen=True)
class Limits:
    """What caches may cost: how many there may be, their share of the full model's numbers, and the share of requests
    that they may answer otherwise than the whole model."""

    most: int = 5
    size: float = 0.1
    wrong: float = 0.005


def build(
    bundle: Bundle,
    material: Dataset,
    limits: Limits,
    seed: int,
    threads: int,
    work: Path,
    out: Path,
    progress: Progress,
    signer: Signer | None = None,
) -> Bundle:
    """Write ``bundle`` to ``out`` with caches of both ways between its full model's layers. Raises ``LayersError``,
    ``PlaceError``, ``SegmentError``, ``EngineError`` and ``OSError``."""
    check_place(out)
    manifest = bundle.manifest
    full = manifest.models[manifest.only("full")]
    data, spec = (bundle.directory / full.file).read_bytes(), full.input
    if spec.height is not None:
        raise LayersError(
            f"{full.file} sees pictures of {spec.side}x{spec.height}; caches are made for square ones only"
        )
    graph, model = onnx.load_from_string(data), read(data)
    places = cuts(graph, spec.size)
    if not places:
        raise LayersError(f"{full.file} has no place between its layers through which all paths run")
    learn, tune = _some(material.learn, _LEARN), material.tune
    own = work / f"layers-{key(full.sha256, learn.scores.tobytes(), tune.scores.tobytes())}"
    to_learn, to_tune = (
        HeadData(_recorded(graph, places, spec, part, threads, own / name, progress), part.scores)
        for name, part in (("learn", learn), ("tune", tune))
    )
    del learn  # its pictures have been looked at, and are many
    cost, known = times(model, places, spec, threads), shapes(graph, spec.size)
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        lay_files(bundle, [one.file for one in manifest.models.values()], building)
        with tempfile.TemporaryDirectory() as scratch:
            task = progress.add_task("caches", total=len(WAYS) * len(places))
            found: dict[Way, list[TrainedHead]] = {}
            for way in WAYS:
                found[way] = []
                for number, place in enumerate(places):
                    found[way].append(teach(way, number, place, known, to_learn, to_tune, cost, seed, Path(scratch)))
                    progress.advance(task)
            room = int(limits.size * full.bytes)
            composed = {way: _compose(caches, cost, limits, room) for way, caches in found.items()}
            layers = _prove(
                model, spec, full.temperature, places, composed, cost, material, limits, threads, building, progress
            )
        if not layers:
            frames = f"{len(material.prove)} frames"
            raise LayersError(f"no cache pays and could be proven on {frames}; give more, or a larger --wrong")
        changed = msgspec.structs.replace(manifest, layers=layers)
        return put(building, changed, out, signer)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _some(part: LabelledFrames, most: int) -> LabelledFrames:
    """At most so many frames of it, evenly."""
    rows = np.unique(np.linspace(0, len(part) - 1, min(most, len(part))).astype(int))
    truth = None if part.truth is None else part.truth[rows]
    return LabelledFrames(part.images[rows], part.scores[rows], part.embeddings[rows], truth, (), part.seen)


def _recorded(
    model: ModelProto,
    places: Sequence[Cut],
    spec: Input,
    part: LabelledFrames,
    threads: int,
    directory: Path,
    progress: Progress,
) -> Mapping[str, activations.Activations]:
    task = progress.add_task(f"activations to {directory.name}", total=len(part))
    pictures = as_pictures(part.images)
    return activations.kept(
        model, places, spec, pictures, threads, directory, lambda done: progress.update(task, completed=done)
    )


def _compose(caches: Sequence[TrainedHead], cost: HeadTimes, limits: Limits, room: int) -> list[TrainedHead]:
    """Those to have."""
    candidates = [one.candidate for one in caches]
    best = compose(candidates, cost.reached, cost.whole, limits.most, room, limits.wrong)
    return [next(one for one in caches if one.candidate is chosen) for chosen in best.chosen]


def _prove(
    model: SplitModel,
    spec: Input,
    temperature: float,
    places: Sequence[Cut],
    composed: Mapping[Way, Sequence[TrainedHead]],
    cost: HeadTimes,
    material: Dataset,
    limits: Limits,
    threads: int,
    directory: Path,
    progress: Progress,
) -> dict[Way, Layers]:
    """Put the caches into ``directory``; what may be said of them. ``temperature``: the whole model's."""
    chosen = [(way, one) for way, several in composed.items() for one in several]
    if not chosen:
        return {}
    files = [(one.candidate.place, one.path) for _, one in chosen]
    task = progress.add_task("proof", total=len(material.tune) + len(material.prove))

    def consulted(part: LabelledFrames, before: int) -> tuple[list[certify.Scores], certify.Scores]:
        pictures = as_pictures(part.images)
        return certify.consult(
            model, places, files, spec, pictures, threads, lambda done: progress.update(task, completed=before + done)
        )

    tuned, tuned_whole = consulted(material.tune, 0)
    proven, whole = consulted(material.prove, len(material.tune))
    degrees = [certify.degree(scores, tuned_whole) for scores in tuned]
    belief = softmax(tuned_whole, temperature)
    reserves = [certify.reserve(scores, belief, degree) for scores, degree in zip(tuned, degrees, strict=True)]
    layers: dict[Way, Layers] = {}
    for way in composed:
        rows = [row for row, (own, _) in enumerate(chosen) if own == way]
        if not rows:
            continue
        olds = [chosen[row][1].candidate for row in rows]
        judged = [
            certify.judged(proven[row], whole, degrees[row], old.place, old.lookup, old.size)
            for row, old in zip(rows, olds, strict=True)
        ]
        limits_ = certify.certify(judged, cost, limits.wrong, _CONFIDENCE)
        if limits_ is None:
            continue
        caches = []
        for number, (row, threshold) in enumerate(zip(rows, limits_, strict=True), 1):
            taught = chosen[row][1]
            file = layer_file(way, number)
            path = directory / file
            path.parent.mkdir(parents=True)
            shutil.copyfile(taught.path, path)
            place = places[taught.candidate.place]
            caches.append(
                Layer(
                    taught.kind,
                    file,
                    path.stat().st_size,
                    file_digest(path),
                    place.tensors,
                    round(place.share, 4),
                    degrees[row],
                    round(threshold, 6),
                    reserves[row],
                )
            )
        layers[way] = Layers(tuple(caches), limits.wrong, _CONFIDENCE, len(whole))
    return layers
