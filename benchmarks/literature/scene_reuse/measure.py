"""Trains the submodels of the fleet, runs them over all queries, and compares the ways to choose one."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import Progress

from benchmarks.literature.row import Inputs, Measurement, Row
from benchmarks.literature.scene_reuse import choice, report, timing
from benchmarks.literature.scene_reuse.classifiers import Zones
from benchmarks.literature.scene_reuse.detectors import Tiles
from benchmarks.literature.scene_reuse.key import Embedder, SceneKey, mix
from benchmarks.literature.scene_reuse.places import TIMES, Segment, blocks, clips, divided
from benchmarks.literature.scene_reuse.trial import CASES, Outcomes, Store, Submodel, Trial
from benchmarks.real_tasks import WALKERS
from cachenet.models.export.detector import DetectorModel, load_detector
from cachenet.shared.command import atomic_files

#: Least share of a label other than the most frequent one at a place's first time. Below it a place has no task.
_MIN_OTHERS = 0.05


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        step: Step between the frames of the clips that are used.
        footage: Frames of a query's footage: 3 seconds of clips of 10 frames a second.
        gap: Frames between the footage and the measured frames.
        questions: Numbers of questions to the full model, of the footage's frames.
        rival: Questions of the audits that the key has to beat.
        epochs: Epochs of the general classifier, the general detector and the detectors of places.
        cameras: Clips that are used; None for all.
        places: Places of each kind; None for all.
        kinds: Kinds that are measured.
    """

    step: int = 1
    footage: int = 30
    gap: int = 10
    questions: tuple[int, ...] = (0, 1, 3, 10, 30)
    rival: int = 10
    epochs: tuple[int, int, int] = (40, 40, 8)
    cameras: tuple[str, ...] | None = None
    places: int | None = None
    kinds: tuple[str, ...] = ("classifiers", "detectors")


WHOLE = Size()
SMOKE = Size(9, 6, 2, (0, 3), 3, (1, 1, 1), (WALKERS.video,), 2, ("classifiers",))


Kind = Zones | Tiles


def measure(inputs: Inputs) -> Measurement:
    """Measure both kinds."""
    size = SMOKE if inputs.smoke else WHOLE
    torch.set_num_threads(1)
    full = load_detector(inputs.data / "detectors" / "nanodet_plus_m_416.onnx", labels=("person",))
    found: dict[str, Any] = {}
    with Progress(console=Console(quiet=True)) as progress:
        zones = Zones(inputs.work / "classifiers", size.epochs[0], progress)
        tiles = Tiles(inputs.work / "detectors", *size.epochs[1:], progress)
        for kind, work in ((zones, zones.work), (tiles, tiles.work)):
            if kind.name not in size.kinds:
                continue
            store, trials, seconds, files = collect(kind, full, inputs, size, work)
            ways = choice.ways(store, kind.labels, size.questions, trials)
            found[kind.name] = {
                "places": sorted({one.place for one in trials}),
                "submodels": len(store.submodels),
                "queries": len(trials),
                "training_s": round(float(np.median(seconds)), 1),
                "cases": {case: report.case(store, trials, ways, case) for case in CASES},
                "none_fits": report.none_fits(store, kind.labels, size.questions, trials),
            }
            if kind is zones:
                found["time"] = timing.measure(files, inputs.smoke)
    return report.result(found, size.rival)


def collect(
    kind: Kind, full: DetectorModel, inputs: Inputs, size: Size, work: Path
) -> tuple[Store, list[Trial], list[float], list[Path]]:
    """Train all models of a kind and run them; return the store, the queries, seconds of training, and the files."""
    segments, first = _segments(kind, full, inputs, size)
    inputs.say(f"{kind.name}: {len(segments)} places, training the general model")
    base = kind.general(first)
    earlier = [one for every in segments for one in every[:-1]]
    pooled = {time: [one for one in earlier if one.time < time] for time in range(1, TIMES)}
    trainings = {f"{one.place.name}-{one.time}": [one] for one in earlier}
    trainings |= {f"pooled-{time}": every for time, every in pooled.items()}
    seconds = {}
    for number, (name, every) in enumerate(trainings.items()):
        inputs.say(f"{kind.name}: {len(trainings) - number} submodels left to train")
        seconds[name] = _trained(kind, every, work / f"{name}.onnx")
    queries = [one for every in segments for one in every[1:]]
    outcomes = {}
    for number, name in enumerate(("general", *trainings)):
        inputs.say(f"{kind.name}: {len(trainings) + 1 - number} models left to run")
        path = base if name == "general" else work / f"{name}.onnx"
        outcomes[name] = _outcomes(kind, path, queries, size, work / f"{name}.npz")
    embed = Embedder()
    submodels = [
        Submodel(
            *(one.place.name, one.place.camera, one.time),
            SceneKey(embed(one.block.pictures), mix(kind.label(one.block), kind.labels)),
        )
        for one in earlier
    ]
    trials = []
    for row, one in enumerate(queries):
        start = slice(0, size.footage)
        labels = kind.label(one.block)[start]
        key = SceneKey(embed(one.block.pictures[start]), mix(labels, kind.labels))
        own = [outcomes[name][row] for name in ("general", *(f"{s.place}-{s.time}" for s in submodels))]
        after = outcomes[f"pooled-{one.time}"][row].measured
        trials.append(Trial(one.place.name, one.place.camera, one.time, key, labels, own, after))
    files = [work / f"{one.place}-{one.time}.onnx" for one in submodels]
    return Store(submodels), trials, [seconds[file.stem] for file in files], files


def _segments(kind: Kind, full: DetectorModel, inputs: Inputs, size: Size) -> tuple[list[list[Segment]], list[Segment]]:
    """The times of each place that has a task, and the first time of each region of the general model."""
    places: list[list[Segment]] = []
    general: list[Segment] = []
    for camera, frames in clips(inputs.data, size.step).items():
        if size.cameras is not None and camera not in size.cameras:
            continue
        some = [one for one in (*kind.places, *kind.general_places) if one.camera == camera]
        inputs.say(f"{kind.name}: reading {camera}")
        found = blocks(full, frames, some, kind.input, inputs.work / "objects", lambda _: None)
        for place, block in found.items():
            times = divided(place, block)
            if place in kind.general_places:
                general.append(times[0])
            elif inputs.smoke or _has_task(kind.label(times[0].block)):
                places.append(times)
    return places[: size.places], general


def _has_task(labels: npt.NDArray[np.int64]) -> bool:
    return bool(len(labels) - np.bincount(labels).max() >= _MIN_OTHERS * len(labels))


def _trained(kind: Kind, segments: Sequence[Segment], path: Path) -> float:
    """Train a submodel unless it is there; return the processor time of its training, seconds."""
    spent = path.with_suffix(".seconds")
    if not spent.exists():
        began = time.process_time()
        kind.submodel(segments, path)
        atomic_files.write(spent, f"{time.process_time() - began:.3f}".encode())
    return float(spent.read_text())


def _outcomes(kind: Kind, model: Path, queries: Sequence[Segment], size: Size, path: Path) -> list[Outcomes]:
    """The answers of a model to all queries, or those of an earlier run."""
    if not path.exists():
        found = kind.outcomes(model, [one.block for one in queries], size.footage, size.gap)
        data = io.BytesIO()
        arrays = {f"{name}{row}": getattr(one, name) for row, one in enumerate(found) for name in _FIELDS}
        np.savez_compressed(data, **arrays)
        atomic_files.write(path, data.getbuffer())
    with np.load(path, allow_pickle=False) as stored:
        return [Outcomes(*(stored[f"{name}{row}"] for name in _FIELDS)) for row in range(len(queries))]


_FIELDS: tuple[str, ...] = ("audits", "certainty", "measured")


ROW = Row(
    "35.5 times less response delay, 3 times less retraining (MOCHA, arXiv 2505.00745; three tasks of mobile video)",
    measure,
)
