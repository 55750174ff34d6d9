"""Early exits of the full model: how far requests run, how many answers are wrong, and the time saved.

    python -m benchmarks.early_exits --bundle models/zoo/cifar10

On the CIFAR-10 test set, on which nothing was fitted. Each kind of exit (``freeze``, ``gati``) runs the test set in
random order, without context. The recommended kind also runs the streams ``dwell`` and ``session`` with the device's
recent labels in the requests.

``half_macs_share``: requests that end at or before half of the multiply-adds; ``half_layers_share`` counts convolutions
and fully connected layers. ``potential``: some exit up to there has the full model's label, at any confidence. Speedups
and ``p99_ratio`` compare the split model with the complete one, in turns on the same pictures, in one process.
``split_overhead``: time of all segments in sequence, without exits, over that of the complete model.

``budget``: simulated devices that ask this full model, on ``--streams`` streams of each kind. ``alone``: disagreement
over all answers where the server has no early exits; ``together``: where it has them; ``exits``: answers of early exits
that are not the full model's. ``over_budget``: share of streams over the risk budget.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from cachenet.models.certify import traces
from cachenet.models.data import cifar10, streams
from cachenet.models.exits.certify import Scores
from cachenet.models.exits.replay import exit_scores, picture, recorded_exits
from cachenet.models.report.confidence_interval import interval
from cachenet.shared.bundle.manifest import EXIT_KINDS, Bundle, ExitKind, Layers, Manifest
from cachenet.shared.cascade.frame import Signature
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT
from cachenet.shared.cascade.types import Miss, Reply
from cachenet.shared.inference.early_exit import EarlyExitModel, ExitResult, RequestContext, load
from cachenet.shared.inference.engine import Batch, ModelPart, Session
from cachenet.shared.inference.graph_split import Segment, cut, read
from cachenet.shared.inference.image import preprocessor
from cachenet.shared.media.signature import sign
from cachenet.shared.transport.protocol import RECENT

RECOMMENDED: ExitKind = "gati"
#: Kinds of streams.
_STREAMS: tuple[streams.StreamName, ...] = ("dwell", "session")
_HALF = 0.5
#: Size of the larger batches.
_BATCH = 16
#: Operators that count as a layer.
_LAYERS = ("Conv", "ConvInteger", "QLinearConv", "Gemm", "MatMul", "MatMulInteger")
#: Runs of a comparison of two models in turns.
_TURNS = 100
#: Interval of requests or batches that also run on the complete model, for its time.
_EVERY = 4
#: Simulated round trip of a request, seconds.
_ROUND_TRIP_S = 0.5


@dataclass(frozen=True)
class Bench:
    """A bundle with test pictures.

    Attributes:
        bundle: The bundle.
        inputs: Input tensor of every picture.
        full: Logits of the full model ``(pictures, classes)``.
        truth: True labels ``(pictures,)``.
        threads: Threads of a model.
        complete: The full model without exits.
    """

    bundle: Bundle
    inputs: list[Batch]
    full: npt.NDArray[np.float32]
    truth: npt.NDArray[np.int64]
    threads: int
    complete: Session

    def exit_model(self, kind: ExitKind, seed: int) -> EarlyExitModel:
        """The full model with early exits of this kind."""
        return load(self.bundle.manifest, kind, self.bundle.find, "cpu", self.threads, random.Random(seed).random)

    def exits(self, kind: ExitKind) -> Layers:
        """The exits' manifest entries."""
        return self.bundle.manifest.layers[kind]

    def segments(self, kind: ExitKind) -> list[Segment]:
        """The full model, split at the exits."""
        data = self.bundle.path(self.bundle.manifest.only("full")).read_bytes()
        return cut(read(data), [one.tensors for one in self.exits(kind).caches])

    def depths(self, kind: ExitKind) -> dict[str, list[float]]:
        """Share of the model that has run at each exit, by unit."""
        graphs = [onnx.load_from_string(segment.model).graph for segment in self.segments(kind)]
        done = np.cumsum([sum(node.op_type in _LAYERS for node in graph.node) for graph in graphs])
        return {
            "macs": [one.share for one in self.exits(kind).caches],
            "layers": (done[:-1] / done[-1]).tolist(),
        }


def measure(directory: Path, frames: int, seeds: int, first_seed: int, threads: int, count: int) -> dict[str, Any]:
    """The measures as the command prints them; ``count``: number of streams of ``budget``."""
    bundle = Bundle(directory)
    manifest = bundle.manifest
    full = manifest.only("full")
    kinds = [kind for kind in EXIT_KINDS if kind in manifest.layers]
    if RECOMMENDED not in kinds:
        raise SystemExit(f"early_exits: {directory} has no {RECOMMENDED} exits; make them with 'model-builder exits'")
    test = cifar10.load().test
    pictures = traces.as_pictures(test.images)
    preprocess = preprocessor(manifest.models[full].input)
    logits, scores = exit_scores(bundle, kinds, pictures, threads)
    inputs = [preprocess(one) for one in pictures]
    bench = Bench(bundle, inputs, scores, test.labels, threads, Session(bundle.path(full), "cpu", threads))
    order = np.random.default_rng(first_seed).permutation(len(inputs))[: frames * seeds].tolist()
    found: dict[str, Any] = {
        kind: {
            **_potential(bench, kind, logits[kind]),
            **_requests(bench, kind, order, first_seed, context=False),
            "speedup_batch16": _batches(bench, kind, order, first_seed),
        }
        for kind in kinds
    }
    for name in _STREAMS:
        plans = [streams.schedule(name, test.labels, seed, frames) for seed in range(first_seed, first_seed + seeds)]
        rows = [row for plan in plans for row in plan.source.tolist()]
        found[f"{RECOMMENDED} {name}"] = _requests(bench, RECOMMENDED, rows, first_seed, context=True)
    local = {name: own for name, own in traces.open_models(bundle).items() if name != full}
    tables = {full: scores, **traces.run_models(local, pictures)}
    seeds_of_budget = range(first_seed, first_seed + count)
    plans_by_name = {
        name: [streams.schedule(name, test.labels, seed, frames) for seed in seeds_of_budget] for name in _STREAMS
    }
    signatures = [sign(one) for one in pictures]
    return {
        "bundle": manifest.name,
        "recommended": RECOMMENDED,
        "configurations": found,
        "split_overhead": _split_overhead(bench),
        "bytes": {kind: _bytes_share(bench, kind) for kind in kinds},
        "budget": {
            name: _budget(plans, manifest, tables, signatures, logits[RECOMMENDED], first_seed)
            for name, plans in plans_by_name.items()
        },
        "accuracy": float((scores.argmax(1) == test.labels).mean()),
        "frames": frames,
        "seeds": seeds,
        "first_seed": first_seed,
        "threads": threads,
    }


def _potential(bench: Bench, kind: ExitKind, logits: Sequence[npt.NDArray[np.float32]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for unit, shares in bench.depths(kind).items():
        early = [
            scores.argmax(1) == bench.full.argmax(1)
            for scores, share in zip(logits, shares, strict=True)
            if share <= _HALF
        ]
        found[f"half_{unit}_potential"] = float(np.any(early, axis=0).mean()) if early else 0.0
        found[f"half_{unit}_last_exit"] = float(early[-1].mean()) if early else 0.0
    return found


def _requests(bench: Bench, kind: ExitKind, rows: Sequence[int], seed: int, context: bool) -> dict[str, Any]:
    """One request after another for the pictures ``rows``; ``context``: with the device's recent labels."""
    model = bench.exit_model(kind, seed)
    recent: deque[int] = deque(maxlen=RECENT)
    took, complete, results = [], [], []
    for number, row in enumerate(rows):
        tensor = bench.inputs[row]
        begun = time.perf_counter()
        [one] = model.run(tensor, [RequestContext(tuple(recent) if context else ())])
        between = time.perf_counter()
        took.append(between - begun)
        results.append(one)
        if number % _EVERY == 0:
            bench.complete.run(tensor)
            complete.append(time.perf_counter() - between)
        if not recent or recent[-1] != one.label:
            recent.append(one.label)
    return {
        **_quality(bench, kind, np.array(rows), results),
        "speedup_batch1": float(np.mean(complete) / np.mean(took)),
        "p99_ratio_batch1": float(np.quantile(took, 0.99) / np.quantile(complete, 0.99)),
        "mean_ms": 1e3 * float(np.mean(took)),
        "complete_ms": 1e3 * float(np.mean(complete)),
        "requests": len(rows),
    }


def _quality(
    bench: Bench, kind: ExitKind, rows: npt.NDArray[np.int64], results: Sequence[ExitResult]
) -> dict[str, Any]:
    exits = np.array([-1 if one.layer is None else one.layer for one in results])
    depth = {unit: np.array([*shares, 1.0])[exits] for unit, shares in bench.depths(kind).items()}
    labels = np.array([one.label for one in results])
    truth, full = bench.truth[rows], bench.full[rows].argmax(1)
    return {
        **{f"half_{unit}_share": float((shares <= _HALF).mean()) for unit, shares in depth.items()},
        "effective_depth": float(depth["macs"].mean()),
        "accuracy": float((labels == truth).mean()),
        "accuracy_drop_points": 100 * float((full == truth).mean() - (labels == truth).mean()),
        "answered": [float((exits == number).mean()) for number in range(len(bench.exits(kind).caches))],
        "false": [
            float(((exits == number) & (labels != full)).mean()) for number in range(len(bench.exits(kind).caches))
        ],
    }


def _batches(bench: Bench, kind: ExitKind, rows: Sequence[int], seed: int) -> float:
    """Throughput of batches over that of the complete model; answered rows leave the batch."""
    model, took, complete = bench.exit_model(kind, seed), [], []
    for at in range(0, len(rows) - _BATCH + 1, _BATCH):
        batch = np.concatenate([bench.inputs[row] for row in rows[at : at + _BATCH]])
        begun = time.perf_counter()
        model.run(batch, [RequestContext()] * _BATCH)
        between = time.perf_counter()
        took.append(between - begun)
        if at // _BATCH % _EVERY == 0:
            bench.complete.run(batch)
            complete.append(time.perf_counter() - between)
    return float(np.mean(complete) / np.mean(took))


def _split_overhead(bench: Bench) -> dict[str, float]:
    segments = [ModelPart(one.model, "segment", "cpu", bench.threads) for one in bench.segments(RECOMMENDED)]

    def split(batch: Batch) -> None:
        tensors = {segments[0].takes[0]: batch}
        for segment in segments:
            tensors |= segment.run(tensors)

    found = {}
    for size in (1, _BATCH):
        ratios = []
        for turn in range(_TURNS):
            batch = np.concatenate([bench.inputs[(size * turn + row) % len(bench.inputs)] for row in range(size)])
            took = {}
            runs: list[Callable[[Batch], object]] = [split, bench.complete.run]
            for run in runs[:: 1 if turn % 2 else -1]:
                begun = time.perf_counter()
                run(batch)
                took[run] = time.perf_counter() - begun
            ratios.append(took[runs[0]] / took[runs[1]])
        found[f"batch{size}"] = float(np.median(ratios))
    return found


def _bytes_share(bench: Bench, kind: ExitKind) -> float:
    """Size of the exits' files over that of the full model's."""
    manifest = bench.bundle.manifest
    return sum(one.bytes for one in bench.exits(kind).caches) / manifest.models[manifest.only("full")].bytes


def _budget(
    plans: Sequence[streams.StreamSchedule],
    manifest: Manifest,
    tables: dict[str, Scores],
    signatures: Sequence[Signature],
    logits: Sequence[Scores],
    seed: int,
) -> dict[str, Any]:
    """Disagreement of devices with and without early exits on their server."""
    model = recorded_exits(manifest, RECOMMENDED, logits, tables[manifest.only("full")], random.Random(seed).random)
    alone = [_simulate(plan, manifest, tables, signatures, None)[0] for plan in plans]
    together = [_simulate(plan, manifest, tables, signatures, model) for plan in plans]
    rates = {"alone": alone, "together": [one[0] for one in together], "exits": [one[1] for one in together]}
    return {
        **{name: interval(own) for name, own in rates.items()},
        "over_budget": {
            name: float(np.mean(np.array(rates[name]) > MAX_DISAGREEMENT)) for name in ("alone", "together")
        },
        "max_disagreement": MAX_DISAGREEMENT,
    }


def _simulate(
    plan: streams.StreamSchedule,
    manifest: Manifest,
    tables: dict[str, Scores],
    signatures: Sequence[Signature],
    model: EarlyExitModel | None,
) -> tuple[float, float]:
    """Disagreement, and share of wrong answers of early exits, of a device with all local models.

    Args:
        plan: A stream of unrelated pictures.
        manifest: The bundle's manifest.
        tables: Logits of every picture by model.
        signatures: Signatures of every picture.
        model: The full model with early exits, see ``recorded_exits``; None: without.
    """
    family = traces.family_of(manifest)
    own = [signatures[number] for number in plan.source.tolist()]
    stream = traces.RecordedStream(plan.label, {name: table[plan.source] for name, table in tables.items()}, own)
    full = stream.trace(family).labels
    cascade = traces.device_cascade(stream, family, MAX_DISAGREEMENT)
    labels, wrong = full.copy(), 0
    for index, number in enumerate(plan.source.tolist()):
        step = cascade.lookup(stream.frame(index), float(index))
        reply = None
        if isinstance(step, Miss):
            reply = Reply(index, stream.logits[family.full][index])
            if model is not None:
                [one] = model.run(picture(number), [RequestContext(step.recent, step.max_exit_risk, str(plan.seed))])
                if one.layer is not None:
                    reply = Reply(index, one.logits, exit_risk=one.risk)
        answer = cascade.complete(step, reply, index + _ROUND_TRIP_S)
        labels[index] = -1 if answer.label is None else answer.label
        wrong += reply is not None and not reply.whole and answer.label != full[index]
    return float(disagreements(labels, full).mean()), wrong / len(plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--frames", type=int, default=2000, help="frames of each stream (default: 2000)")
    parser.add_argument("--seeds", type=int, default=5, help="streams that are timed, of each kind (default: 5)")
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1, help="threads of a model (default: 1)")
    parser.add_argument("--streams", type=int, default=100, help="streams of budget, of each kind (default: 100)")
    chosen = parser.parse_args()
    print(
        json.dumps(
            measure(chosen.bundle, chosen.frames, chosen.seeds, chosen.first_seed, chosen.threads, chosen.streams)
        )
    )


if __name__ == "__main__":
    main()
