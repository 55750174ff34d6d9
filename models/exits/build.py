"""Builds early exits for a bundle's full model: records activations, trains heads, selects exits and certifies them."""

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
from cachenet.models.bundle_writer import link_files, publish, under_construction
from cachenet.models.certify.traces import as_pictures
from cachenet.models.data.dataset import Dataset, LabelledFrames
from cachenet.models.exits import certify
from cachenet.models.exits.activations import Activations, record_to_disk
from cachenet.models.exits.heads import HeadData, HeadTimes, TrainedHead, measure_times, train_head
from cachenet.models.exits.select import compose
from cachenet.models.exits.sites import Site, find_sites, shapes
from cachenet.shared.bundle.manifest import (
    EXIT_KINDS,
    Bundle,
    ExitKind,
    Layer,
    Layers,
    Model,
    file_digest,
    layer_file,
)
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.graph_split import SplitModel, read
from cachenet.shared.inference.image import Input

#: Largest number of training frames of a head.
_LEARN = 24_000
#: Confidence of the certificate.
_CONFIDENCE = 0.95


class ExitsError(UserError):
    """Early exits cannot be made for a full model; the message has the reason."""


@dataclass(frozen=True)
class Limits:
    """Limits on the exits of each kind.

    Attributes:
        most: Largest number of exits.
        size: Their largest size, as a share of the full model's file.
        wrong: Largest share of requests with an exit's answer that differs from the whole model's.
    """

    most: int = 5
    size: float = 0.1
    wrong: float = 0.005


def build(
    bundle: Bundle,
    dataset: Dataset,
    limits: Limits,
    seed: int,
    threads: int,
    work: Path,
    out: Path,
    progress: Progress,
) -> Bundle:
    """Write ``bundle`` to ``out`` with early exits of each kind.

    Raises:
        ExitsError: The model has no site, or no exit could be certified.
        PlaceError: Something other than a bundle is at ``out``.
        SegmentError: The model cannot be cut.
        EngineError: A part of the model cannot be run.
        OSError: The bundle cannot be written.
    """
    with under_construction(out) as building:
        manifest = bundle.manifest
        full = manifest.models[manifest.only("full")]
        data, spec = (bundle.directory / full.file).read_bytes(), full.input
        if spec.height is not None:
            raise ExitsError(
                f"{full.file} takes pictures of {spec.side}x{spec.height}; early exits need square pictures"
            )
        graph, model = onnx.load_from_string(data), read(data)
        sites = find_sites(graph, spec.size)
        if not sites:
            raise ExitsError(f"{full.file} has no place between its layers through which all paths run")
        learn, tune = _thin(dataset.learn, _LEARN), dataset.tune
        directory = work / f"layers-{key(full.sha256, learn.scores.tobytes(), tune.scores.tobytes())}"
        to_learn, to_tune = (
            HeadData(_record(graph, sites, spec, part, threads, directory / name, progress), part.scores)
            for name, part in (("learn", learn), ("tune", tune))
        )
        del learn  # frees the memory of its pictures
        cost, known = measure_times(model, sites, spec, threads), shapes(graph, spec.size)
        link_files(bundle, [one.file for one in manifest.models.values()], building)
        with tempfile.TemporaryDirectory() as scratch:
            task = progress.add_task("exit heads", total=len(EXIT_KINDS) * len(sites))
            chosen: list[tuple[ExitKind, TrainedHead]] = []
            for way in EXIT_KINDS:
                heads = []
                for number, site in enumerate(sites):
                    heads.append(train_head(way, number, site, known, to_learn, to_tune, cost, seed, Path(scratch)))
                    progress.advance(task)
                chosen += [(way, one) for one in _select(heads, cost, limits, int(limits.size * full.bytes))]
            layers = _certify(model, full, sites, chosen, cost, dataset, limits, threads, building, progress)
        if not layers:
            frames = f"{len(dataset.prove)} frames"
            raise ExitsError(
                f"no exit saves time and could be certified on {frames}; give more frames, or a larger --wrong"
            )
        return publish(building, msgspec.structs.replace(manifest, layers=layers), out)


def _thin(part: LabelledFrames, most: int) -> LabelledFrames:
    """At most ``most`` frames of ``part``, evenly spaced."""
    rows = np.unique(np.linspace(0, len(part) - 1, min(most, len(part))).astype(int))
    truth = None if part.truth is None else part.truth[rows]
    return LabelledFrames(part.images[rows], part.scores[rows], part.embeddings[rows], truth, (), part.full_input)


def _record(
    model: ModelProto,
    sites: Sequence[Site],
    spec: Input,
    part: LabelledFrames,
    threads: int,
    directory: Path,
    progress: Progress,
) -> Mapping[str, Activations]:
    task = progress.add_task(f"activations to {directory.name}", total=len(part))
    pictures = as_pictures(part.images)
    return record_to_disk(
        model, sites, spec, pictures, threads, directory, lambda done: progress.update(task, completed=done)
    )


def _select(heads: Sequence[TrainedHead], cost: HeadTimes, limits: Limits, size: int) -> list[TrainedHead]:
    """The heads of the fastest set of exits. ``size``: largest size of all, bytes."""
    candidates = [one.candidate for one in heads]
    best = compose(candidates, cost.reached, cost.whole, limits.most, size, limits.wrong)
    return [next(one for one in heads if one.candidate is chosen) for chosen in best.chosen]


def _certify(
    model: SplitModel,
    full: Model,
    sites: Sequence[Site],
    chosen: Sequence[tuple[ExitKind, TrainedHead]],
    cost: HeadTimes,
    dataset: Dataset,
    limits: Limits,
    threads: int,
    directory: Path,
    progress: Progress,
) -> dict[ExitKind, Layers]:
    """Certify the chosen exits, and copy the files of certified ones into ``directory``; return their descriptions."""
    if not chosen:
        return {}
    files = [(head.candidate.site, head.path) for _, head in chosen]
    task = progress.add_task("certification", total=len(dataset.tune) + len(dataset.prove))

    def run(part: LabelledFrames, before: int) -> tuple[list[certify.Scores], certify.Scores]:
        def advance(done: int) -> None:
            progress.update(task, completed=before + done)

        return certify.run_exits(model, sites, files, full.input, as_pictures(part.images), threads, advance)

    tuning, tuning_whole = run(dataset.tune, 0)
    certifying, whole = run(dataset.prove, len(dataset.tune))
    temperatures = [certify.fit_head_temperature(scores, tuning_whole) for scores in tuning]
    probabilities = softmax(tuning_whole, full.temperature)
    reserves = [certify.reserve(one, probabilities, degree) for one, degree in zip(tuning, temperatures, strict=True)]
    layers: dict[ExitKind, Layers] = {}
    for way in dict.fromkeys(way for way, _ in chosen):
        rows = [row for row, (own, _) in enumerate(chosen) if own == way]
        choices = []
        for row in rows:
            old = chosen[row][1].candidate
            choices.append(
                certify.exit_choice(certifying[row], whole, temperatures[row], old.site, old.lookup, old.size)
            )
        thresholds = certify.certify(choices, cost, limits.wrong, _CONFIDENCE)
        if thresholds is None:
            continue
        exits = []
        for number, (row, threshold) in enumerate(zip(rows, thresholds, strict=True), 1):
            head = chosen[row][1]
            file = layer_file(way, number)
            path = directory / file
            path.parent.mkdir(parents=True)
            shutil.copyfile(head.path, path)
            site = sites[head.candidate.site]
            exits.append(
                Layer(
                    head.kind,
                    file,
                    path.stat().st_size,
                    file_digest(path),
                    site.tensors,
                    round(site.share, 4),
                    temperatures[row],
                    round(threshold, 6),
                    reserves[row],
                )
            )
        layers[way] = Layers(tuple(exits), limits.wrong, _CONFIDENCE, len(whole))
    return layers
