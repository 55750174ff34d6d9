"""Evaluates the early exits of a bundle on frames that they were not made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from cachenet.models.certify.traces import as_pictures
from cachenet.models.data.dataset import LabelledFrames
from cachenet.models.exits.certify import Scores, exit_choice, run_exits
from cachenet.models.exits.heads import HeadTimes, measure_lookup, measure_times
from cachenet.models.exits.select import PRICES, ExitChoice, expected, thresholds
from cachenet.models.exits.sites import Site, known_site, shapes
from cachenet.shared.bundle.manifest import Bundle, ExitKind, Layers
from cachenet.shared.inference.graph_split import read


def evaluate(
    bundle: Bundle, part: LabelledFrames, threads: int, advance: Callable[[int], object] = lambda _: None
) -> dict[ExitKind, dict[str, Any]]:
    """Evaluate the exits of each kind, without context.

    Returns:
        By kind: for each exit its shares of answers and errors, cost and size; the mean time and depth of a request;
        and the curve of accuracy (agreement, without true labels) against time.
    """
    manifest = bundle.manifest
    if not manifest.layers:
        return {}
    full = manifest.models[manifest.only("full")]
    data = (bundle.directory / full.file).read_bytes()
    graph, model = onnx.load_from_string(data), read(data)
    exits = [(kind, one) for kind, several in manifest.layers.items() for one in several.caches]
    site_of = {one.tensors: known_site(one.tensors, model.image, one.share) for _, one in exits}
    sites = sorted(site_of.values(), key=lambda site: site.share)
    cost, known = measure_times(model, sites, full.input, threads), shapes(graph, full.input.size)
    files = [(sites.index(site_of[one.tensors]), bundle.directory / one.file) for _, one in exits]
    scores, whole = run_exits(model, sites, files, full.input, as_pictures(part.images), threads, advance)
    truth = whole.argmax(1) if part.truth is None else part.truth
    found: dict[ExitKind, dict[str, Any]] = {}
    for kind, several in manifest.layers.items():
        rows = [row for row, (own, _) in enumerate(exits) if own == kind]
        choices = [
            exit_choice(scores[row], whole, one.temperature, site, measure_lookup(path, sites[site], known), one.bytes)
            for row, one in zip(rows, several.caches, strict=True)
            for site, path in [files[row]]
        ]
        found[kind] = _kind(several, choices, [scores[row] for row in rows], whole, truth, sites, cost)
    return found


def _kind(
    exits: Layers,
    choices: Sequence[ExitChoice],
    scores: Sequence[Scores],
    whole: Scores,
    truth: npt.NDArray[np.int64],
    sites: Sequence[Site],
    cost: HeadTimes,
) -> dict[str, Any]:
    limits = [one.threshold for one in exits.caches]
    answered_by, labels = _answers(choices, limits, scores, whole)
    depth = np.array([*(one.share for one in exits.caches), 1.0])[answered_by]
    curve = []
    for price in PRICES:
        tried = thresholds(choices, cost.reached, cost.whole, price)
        seconds, wrong = expected(choices, tried, cost.reached, cost.whole)
        right = _answers(choices, tried, scores, whole)[1] == truth
        curve.append({"ms": 1e3 * seconds, "wrong": wrong, "accuracy": float(right.mean())})
    seconds, wrong = expected(choices, limits, cost.reached, cost.whole)
    return {
        "caches": [
            {
                "after": sites[choice.site].features[0],
                "share": one.share,
                "kind": one.kind,
                "bytes": one.bytes,
                "lookup_ms": 1e3 * choice.lookup,
                "agreement": float(1.0 - choice.wrong.mean()),
                "reached": float((answered_by >= number).mean()),
                "answered": float((answered_by == number).mean()),
                "false": float(((answered_by == number) & choice.wrong).mean()),
            }
            for number, (one, choice) in enumerate(zip(exits.caches, choices, strict=True))
        ],
        "effective_depth": float(depth.mean()),
        "ms": 1e3 * seconds,
        "whole_ms": 1e3 * cost.whole,
        "wrong": wrong,
        "accuracy": float((labels == truth).mean()),
        "whole_accuracy": float((whole.argmax(1) == truth).mean()),
        "curve": curve,
    }


def _answers(
    choices: Sequence[ExitChoice], limits: Sequence[float], scores: Sequence[Scores], whole: Scores
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each frame, the index of the answering exit (their number for the whole model), and the label."""
    answered_by = np.full(len(whole), len(choices))
    labels: npt.NDArray[np.int64] = whole.argmax(1)
    for number in reversed(range(len(choices))):
        hit = choices[number].risk <= limits[number]
        answered_by[hit] = number
        labels = np.where(hit, scores[number].argmax(1), labels)
    return answered_by, labels
