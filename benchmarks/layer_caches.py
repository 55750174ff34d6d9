"""Caches between the full model's layers: how far requests run, how right the answers are, and what it saves.

    python -m benchmarks.layer_caches --bundle models/zoo/cifar10

On the CIFAR-10 test set, on which nothing was fitted. Each way of caching (``freeze``, ``gati``) is a configuration on
the whole test set in random order, without context; for the recommended one further configurations show ``dwell`` and
``session`` with the device's recent labels in the request, and the *miss stream*: what a device with the bundle's own
models still asks about.

``half_layers`` counts multiply-adds: a request that ends at or before half of them; ``half_counted`` counts layers:
convolutions and fully connected ones. ``potential``: some cache up to there gives the full model's answer, sure or not.
Wall clock is of one process, the cut model and the whole one by turns on the same pictures; ``p99_ratio`` likewise.

``cut_overhead``: the time of all segments in sequence, without a cache, over that of the whole model; ``off``: that of
the server's full model with layer caches off over that of the bare session. Both medians over runs by turns.
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

from benchmarks import layer_budget
from cachenet.cloud_server.serving.full_model import FullModel
from cachenet.models.certify import recorded
from cachenet.models.data import cifar10, streams
from cachenet.models.exits.replayed import replayed
from cachenet.shared.bundle.manifest import WAYS, Bundle, Layers, Way
from cachenet.shared.cascade.frame import Signature
from cachenet.shared.inference.early_exit import EarlyExitModel, ExitResult, RequestContext, load
from cachenet.shared.inference.engine import Batch, ModelPart, Session
from cachenet.shared.inference.graph_split import Segment, cut, read
from cachenet.shared.inference.image import preprocessor
from cachenet.shared.media.signature import sign
from cachenet.shared.transport.protocol import RECENT

RECOMMENDED: Way = "gati"
_HALF = 0.5
_MANY = 16
#: What is counted as a layer, and runs by turns of two ways to do one thing.
_LAYERS = ("Conv", "ConvInteger", "QLinearConv", "Gemm", "MatMul", "MatMulInteger")
_TURNS = 100
#: Of so many requests, or batches, one is timed on the whole model too.
_EVERY = 4


@dataclass(frozen=True)
class Asked:
    """A request: the number of its picture, and the labels that its device had seen; None where the device's own
    answers are to be."""

    picture: int
    recent: tuple[int, ...] | None


@dataclass(frozen=True)
class Bench:
    """``inputs``: what the model takes, of every test picture; ``full``: its scores; ``truth``."""

    bundle: Bundle
    inputs: list[Batch]
    full: npt.NDArray[np.float32]
    truth: npt.NDArray[np.int64]
    threads: int
    whole: Session

    def layered(self, way: Way, seed: int) -> EarlyExitModel:
        return load(self.bundle.manifest, way, self.bundle.find, "cpu", self.threads, random.Random(seed).random)

    def layers(self, way: Way) -> Layers:
        return self.bundle.manifest.layers[way]

    def segments(self, way: Way) -> list[Segment]:
        """Of the full model, cut for the caches of that way."""
        data = self.bundle.path(self.bundle.manifest.only("full")).read_bytes()
        return cut(read(data), [layer.tensors for layer in self.layers(way).caches])

    def shares(self, way: Way) -> list[float]:
        """Of the multiply-adds that are done at each cache."""
        return [layer.share for layer in self.layers(way).caches]

    def counted(self, way: Way) -> list[float]:
        """Of the layers that are done at each cache."""
        graphs = [onnx.load_from_string(segment.model).graph for segment in self.segments(way)]
        done = np.cumsum([sum(node.op_type in _LAYERS for node in graph.node) for graph in graphs])
        shares: list[float] = (done[:-1] / done[-1]).tolist()
        return shares


def measure(directory: Path, frames: int, seeds: int, first_seed: int, threads: int) -> dict[str, Any]:
    """The figures as the command prints them."""
    bundle = Bundle(directory)
    full = bundle.manifest.only("full")
    spec = bundle.manifest.models[full].input
    test = cifar10.load().test
    pictures = recorded.as_pictures(test.images)
    preprocess = preprocessor(spec)
    ways = [way for way in WAYS if way in bundle.manifest.layers]
    if RECOMMENDED not in ways:
        raise SystemExit(
            f"layer_caches: {directory} has no {RECOMMENDED} caches; make them with 'model-builder layers'"
        )
    said, scores = layer_budget.consulted(bundle, ways, pictures, threads)
    tables = layer_budget.local(bundle, test, scores)
    inputs = [preprocess(picture) for picture in pictures]
    signatures = [sign(picture) for picture in pictures]
    whole = Session(bundle.path(full), "cpu", threads)
    bench = Bench(bundle, inputs, scores, test.labels, threads, whole)

    order = np.random.default_rng(first_seed).permutation(len(inputs))[: frames * seeds]
    found: dict[str, Any] = {}
    for way in ways:
        asked = [Asked(row, ()) for row in order.tolist()]
        found[way] = {
            **_potential(bench, way, said[way]),
            **_play(bench, way, asked, first_seed),
            "speedup_batch16": _together(bench, way, asked, first_seed),
            "stream": "test set in random order, no context",
        }
    for name in ("dwell", "session"):
        plans = [streams.plan(name, test.labels, seed, frames) for seed in range(first_seed, first_seed + seeds)]
        asked = [Asked(row, None) for plan in plans for row in plan.source.tolist()]
        figures = _play(bench, RECOMMENDED, asked, first_seed)
        found[f"{RECOMMENDED} {name}"] = {**figures, "stream": f"{name}, recent labels in the request"}
        missed, together = _missed(bench, plans, tables, signatures, said[RECOMMENDED], first_seed)
        figures = _play(bench, RECOMMENDED, missed, first_seed)
        found[f"{RECOMMENDED} misses of {name}"] = {
            **figures,
            **together,
            "stream": f"what a device with the bundle's own models asks about on {name}",
        }
    return {
        "bundle": bundle.manifest.name,
        "recommended": RECOMMENDED,
        "configurations": found,
        "cut_overhead": _cut_overhead(bench),
        "off": _off(bench),
        "caches": {way: [_about(bench, way, place) for place in range(len(bench.layers(way).caches))] for way in ways},
        "memory": {way: _memory(bench, way) for way in ways},
        "full_model": {
            "accuracy": float((scores.argmax(1) == test.labels).mean()),
            "bytes": bundle.manifest.models[full].bytes,
        },
        "frames": frames,
        "seeds": seeds,
        "first_seed": first_seed,
        "threads": threads,
    }


def _potential(bench: Bench, way: Way, said: Sequence[npt.NDArray[np.float32]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, shares in (("layers", bench.shares(way)), ("counted", bench.counted(way))):
        early = [
            scores.argmax(1) == bench.full.argmax(1)
            for scores, share in zip(said, shares, strict=True)
            if share <= _HALF
        ]
        found[f"half_{name}_potential"] = float(np.any(early, axis=0).mean()) if early else 0.0
        found[f"half_{name}_last_alone"] = float(early[-1].mean()) if early else 0.0
    return found


def _play(bench: Bench, way: Way, asked: Sequence[Asked], seed: int) -> dict[str, Any]:
    """One request after the other; of every so many, the whole model on the same picture right after the cut one."""
    layered = bench.layered(way, seed)
    recent: deque[int] = deque(maxlen=RECENT)
    took, uncut, passed = [], [], []
    for number, request in enumerate(asked):
        known = tuple(recent) if request.recent is None else request.recent
        tensor = bench.inputs[request.picture]
        begun = time.perf_counter()
        [one] = layered.run(tensor, [RequestContext(known)])
        between = time.perf_counter()
        took.append(between - begun)
        passed.append(one)
        if number % _EVERY == 0:
            bench.whole.run(tensor)
            uncut.append(time.perf_counter() - between)
        if not recent or recent[-1] != one.label:
            recent.append(one.label)
    rows = np.array([request.picture for request in asked])
    return {
        **_quality(bench, way, rows, passed),
        "speedup_batch1": float(np.mean(uncut) / np.mean(took)),
        "p99_ratio_batch1": float(np.quantile(took, 0.99) / np.quantile(uncut, 0.99)),
        "mean_ms": 1e3 * float(np.mean(took)),
        "whole_ms": 1e3 * float(np.mean(uncut)),
        "pays": [cache.worth.pays for cache in layered.caches],
        "requests": len(asked),
    }


def _quality(bench: Bench, way: Way, rows: npt.NDArray[np.int64], passed: Sequence[ExitResult]) -> dict[str, Any]:
    depth, counted = (
        np.array([1.0 if one.layer is None else shares[one.layer] for one in passed])
        for shares in (bench.shares(way), bench.counted(way))
    )
    labels = np.array([one.label for one in passed])
    layer = np.array([-1 if one.layer is None else one.layer for one in passed])
    truth, full = bench.truth[rows], bench.full[rows].argmax(1)
    # Accuracy is compared with the full model's bare answer where there is no context; where there is, it gains.
    return {
        "half_layers_share": float((depth <= _HALF).mean()),
        "half_counted_share": float((counted <= _HALF).mean()),
        "effective_depth": float(depth.mean()),
        "accuracy": float((labels == truth).mean()),
        "accuracy_drop_points": 100 * float((full == truth).mean() - (labels == truth).mean()),
        "answered": [float((layer == place).mean()) for place in range(len(bench.shares(way)))],
        "false": [float(((layer == place) & (labels != full)).mean()) for place in range(len(bench.shares(way)))],
    }


def _together(bench: Bench, way: Way, asked: Sequence[Asked], seed: int) -> float:
    """How many times the throughput of batches, rows that are answered leaving them."""
    layered, took, uncut = bench.layered(way, seed), [], []
    for at in range(0, len(asked) - _MANY + 1, _MANY):
        batch = np.concatenate([bench.inputs[one.picture] for one in asked[at : at + _MANY]])
        begun = time.perf_counter()
        layered.run(batch, [RequestContext()] * _MANY)
        between = time.perf_counter()
        took.append(between - begun)
        if at // _MANY % _EVERY == 0:
            bench.whole.run(batch)
            uncut.append(time.perf_counter() - between)
    return float(np.mean(uncut) / np.mean(took))


def _cut_overhead(bench: Bench) -> dict[str, float]:
    pieces = bench.segments(RECOMMENDED)
    segments = [ModelPart(piece.model, "segment", "cpu", bench.threads) for piece in pieces]

    def in_sequence(tensors: Sequence[Batch]) -> None:
        held = {segments[0].takes[0]: np.concatenate(tensors)}
        for segment in segments:
            held |= segment.run(held)

    return _by_turns(bench, in_sequence)


def _off(bench: Bench) -> dict[str, float]:
    full = FullModel(bench.bundle, "cpu", bench.threads)
    return _by_turns(bench, lambda tensors: full.run(tensors, [RequestContext()] * len(tensors)))


def _by_turns(bench: Bench, run: Callable[[Sequence[Batch]], object]) -> dict[str, float]:
    """How many times as long as the whole model it takes, for single pictures and for batches."""
    found = {}
    for many in (1, _MANY):
        ratios = []
        for turn in range(_TURNS):
            tensors = [bench.inputs[(many * turn + row) % len(bench.inputs)] for row in range(many)]
            took = [0.0, 0.0]
            for which in (0, 1) if turn % 2 else (1, 0):
                begun = time.perf_counter()
                if which:
                    bench.whole.run(np.concatenate(tensors))
                else:
                    run(tensors)
                took[which] = time.perf_counter() - begun
            ratios.append(took[0] / took[1])
        found[f"batch{many}"] = float(np.median(ratios))
    return found


def _missed(
    bench: Bench,
    plans: Sequence[streams.StreamSchedule],
    tables: dict[str, npt.NDArray[np.float32]],
    signatures: Sequence[Signature],
    said: Sequence[npt.NDArray[np.float32]],
    seed: int,
) -> tuple[list[Asked], dict[str, Any]]:
    """What a device with all the bundle's local models asks about, answered by the recommended caches; and how often
    device and caches disagree together, see ``layer_budget``."""
    manifest = bench.bundle.manifest
    layered = replayed(manifest, RECOMMENDED, said, bench.full, random.Random(seed).random)
    runs = [layer_budget.follow(plan, manifest, tables, signatures, layered) for plan in plans]
    missed = [Asked(*one) for run in runs for one in run.asked]
    return missed, {
        "share_of_frames": len(missed) / sum(len(run.disagree) for run in runs),
        "disagreement": float(np.mean([run.disagree.mean() for run in runs])),
        "exits_that_differ": float(np.mean([run.exits.mean() for run in runs])),
        "max_disagreement": layer_budget.BUDGET,
    }


def _about(bench: Bench, way: Way, place: int) -> dict[str, Any]:
    layer = bench.layers(way).caches[place]
    return {
        "after": layer.tensors[0],
        "share": layer.share,
        "kind": layer.kind,
        "bytes": layer.bytes,
        "temperature": layer.temperature,
        "threshold": layer.threshold,
    }


def _memory(bench: Bench, way: Way) -> float:
    """Of the caches' files, as a share of the full model's."""
    manifest = bench.bundle.manifest
    whole = manifest.models[manifest.only("full")].bytes
    return sum(layer.bytes for layer in bench.layers(way).caches) / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    print(json.dumps(measure(asked.bundle, asked.frames, asked.seeds, asked.first_seed, asked.threads)))


if __name__ == "__main__":
    main()
