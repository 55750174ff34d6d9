"""What a bundle's caches between layers are worth, on frames that they were not made from: figures for its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from cachenet.models.certify.recorded import as_pictures
from cachenet.models.data.dataset import LabelledFrames
from cachenet.models.exits.certify import Scores, consult, judged
from cachenet.models.exits.heads import HeadTimes, lookup, times
from cachenet.models.exits.select import PRICES, ExitChoice, expected, thresholds
from cachenet.models.exits.sites import Cut, placed, shapes
from cachenet.shared.bundle.manifest import Bundle, Layers, Way
from cachenet.shared.inference.graph_split import read


def figures(
    bundle: Bundle, part: LabelledFrames, threads: int, advance: Callable[[int], object] = lambda _: None
) -> dict[Way, dict[str, Any]]:
    """By way: each cache's share of answers, false ones, cost and size; what a request takes on average and how deep it
    runs; and the curve of accuracy (agreement where nobody knows the truth) against time. Without context."""
    manifest = bundle.manifest
    if not manifest.layers:
        return {}
    full = manifest.models[manifest.only("full")]
    data = (bundle.directory / full.file).read_bytes()
    graph, model = onnx.load_from_string(data), read(data)
    every = [(way, layer) for way, layers in manifest.layers.items() for layer in layers.caches]
    known_at = {layer.tensors: placed(layer.tensors, model.image, layer.share) for _, layer in every}
    places = sorted(known_at.values(), key=lambda place: place.share)
    cost, known = times(model, places, full.input, threads), shapes(graph, full.input.size)
    files = [(places.index(known_at[layer.tensors]), bundle.directory / layer.file) for _, layer in every]
    said, whole = consult(model, places, files, full.input, as_pictures(part.images), threads, advance)
    truth = whole.argmax(1) if part.truth is None else part.truth
    found: dict[Way, dict[str, Any]] = {}
    for way, layers in manifest.layers.items():
        rows = [row for row, (of, _) in enumerate(every) if of == way]
        caches = [
            judged(said[row], whole, layer.temperature, place, lookup(path, places[place], known), layer.bytes)
            for row, layer in zip(rows, layers.caches, strict=True)
            for place, path in [files[row]]
        ]
        found[way] = _way(layers, caches, [said[row] for row in rows], whole, truth, places, cost)
    return found


def _way(
    layers: Layers,
    caches: Sequence[ExitChoice],
    said: Sequence[Scores],
    whole: Scores,
    truth: npt.NDArray[np.int64],
    places: Sequence[Cut],
    cost: HeadTimes,
) -> dict[str, Any]:
    limits = [layer.threshold for layer in layers.caches]
    answers, labels = _answered(caches, limits, said, whole)
    depth = np.array([*(layer.share for layer in layers.caches), 1.0])[answers]
    rows = []
    for number, (layer, cache) in enumerate(zip(layers.caches, caches, strict=True)):
        rows.append(
            {
                "after": places[cache.place].features[0],
                "share": layer.share,
                "kind": layer.kind,
                "bytes": layer.bytes,
                "lookup_ms": 1e3 * cache.lookup,
                "agreement": float(1.0 - cache.wrong.mean()),
                "reached": float((answers >= number).mean()),
                "answered": float((answers == number).mean()),
                "false": float(((answers == number) & cache.wrong).mean()),
            }
        )
    curve = []
    for price in PRICES:
        tried = thresholds(caches, cost.reached, cost.whole, price)
        seconds, wrong = expected(caches, tried, cost.reached, cost.whole)
        right = _answered(caches, tried, said, whole)[1] == truth
        curve.append({"ms": 1e3 * seconds, "wrong": wrong, "accuracy": float(right.mean())})
    seconds, wrong = expected(caches, limits, cost.reached, cost.whole)
    return {
        "caches": rows,
        "effective_depth": float(depth.mean()),
        "ms": 1e3 * seconds,
        "whole_ms": 1e3 * cost.whole,
        "wrong": wrong,
        "accuracy": float((labels == truth).mean()),
        "whole_accuracy": float((whole.argmax(1) == truth).mean()),
        "curve": curve,
    }


def _answered(
    caches: Sequence[ExitChoice], limits: Sequence[float], said: Sequence[Scores], whole: Scores
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """By frame, which cache answers, or their number for the whole model, and with what label."""
    answers = np.full(len(whole), len(caches))
    labels: npt.NDArray[np.int64] = whole.argmax(1)
    for number in reversed(range(len(caches))):
        hit = caches[number].risk <= limits[number]
        answers[hit] = number
        labels = np.where(hit, said[number].argmax(1), labels)
    return answers, labels
