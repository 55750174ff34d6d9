"""Refreshed caches: better on what is asked now, never worse on what was asked before, or as they were."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from cachenet.cloud_server.refresh import Row, Terms, Window, refresh
from cachenet.cloud_server.refresher import Refresher
from cachenet.shared.bundle.manifest import Layer
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.inference.early_exit import Cache, Correction, EarlyExitModel, ExitFeatures, ExitResult
from cachenet.shared.inference.exit_cost import ExitCostModel

CLASSES, DIMENSIONS = 6, 12
TERMS = {0: Terms(1.0, 0.05, 0.01)}


def stream(labels: Sequence[int], count: int, seed: int, lie: int | None = None) -> list[Row]:
    """Requests of these labels. The cache's own scores are vague; what it has seen tells more, and otherwise for every
    label. ``lie``: what the whole model says instead."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(CLASSES, DIMENSIONS))
    rows = []
    for label in rng.choice(labels, count).tolist():
        features = (directions[label] + 0.9 * rng.normal(size=DIMENSIONS)).astype(np.float32)
        scores = (0.5 * directions @ features / DIMENSIONS + 0.5 * rng.normal(size=CLASSES)).astype(np.float32)
        rows.append(Row({0: ExitFeatures(features, scores)}, label if lie is None else lie, 1.0))
    return rows


def hits(rows: Sequence[Row], correction: Correction | None) -> tuple[int, int]:
    """How many are answered, and how many of these falsely."""
    features, scores = (np.stack([getattr(row.seen[0], name) for row in rows]) for name in ExitFeatures._fields)
    degree = 1.0
    if correction is not None:
        scores, degree = correction.apply(features, scores), correction.temperature
    belief = softmax(scores, degree)
    sure = 1 - belief.max(1) <= TERMS[0].threshold
    wrong = sure & (belief.argmax(1) != np.array([row.label for row in rows]))
    return int(sure.sum()), int(wrong.sum())


def test_what_a_stream_shows_is_learned() -> None:
    recent, ever = stream([0, 1, 2], 1500, 1), stream(range(CLASSES), 800, 2)
    found = refresh(recent, ever, TERMS)
    fresh = stream([0, 1, 2], 1000, 3)
    now, wrong = hits(fresh, found[0])
    assert now > hits(fresh, None)[0] + 300
    assert wrong <= 0.01 * len(fresh)


def test_a_poisoned_window_teaches_nothing() -> None:
    """Somebody sends pictures of all kinds that the whole model is made to call one thing."""
    assert refresh(stream(range(CLASSES), 1500, 1, lie=4), stream(range(CLASSES), 800, 2), TERMS) == {}


def test_a_shifted_window_does_not_cost_what_was_known() -> None:
    """What is learned of a window that shows one label alone must hold for all that came before."""
    recent, ever = stream([5], 1500, 1), stream(range(CLASSES), 800, 2)
    old = stream(range(CLASSES), 2000, 3)
    found = refresh(recent, ever, TERMS)
    assert hits(old, found.get(0))[1] <= 0.015 * len(old)


def test_what_was_learned_is_not_replaced_by_what_is_no_better() -> None:
    """A correction is compared with the one that is in use, and not with the cache as it was made."""
    recent, ever = stream([0, 1, 2], 1500, 1), stream(range(CLASSES), 800, 2)
    present = refresh(recent, ever, TERMS)[0]
    again = {0: replace(TERMS[0], present=present)}
    assert refresh(recent, ever, again) == {}
    assert refresh(stream([0, 1, 2], 1500, 7), stream(range(CLASSES), 800, 8), again) == {}


def test_without_a_past_or_with_little_to_go_by_caches_stay_as_they_are() -> None:
    rows = stream([0, 1], 1000, 1)
    assert refresh(rows, [], TERMS) == {}
    assert refresh(rows[:3], stream([0, 1], 500, 2), TERMS) == {}


def test_a_window_keeps_the_latest_and_some_of_all_times() -> None:
    rng = np.random.default_rng(0)
    window = Window(lambda: float(rng.random()))
    rows = [Row({}, number, 1.0) for number in range(8000)]
    for row in rows:
        window.add(row)
    recent, ever = window.rows()
    assert recent == rows[-len(recent) :] and len(recent) == 768
    assert len(ever) == 1024 and not {id(row) for row in ever} & {id(row) for row in recent}
    places = np.array([row.label for row in ever])
    assert 3500 < places.mean() < 4500, "of all times alike"


def test_a_refresher_learns_beside_the_answering_and_ends_at_once() -> None:
    """In a process of its own; what it has learned is put to use by itself."""
    layer = Layer("pooled", "gati-1/1/model.onnx", 1, "0" * 64, ("x",), 0.5, 1.0, TERMS[0].threshold)
    cache = Cache(layer, cast(Any, None), ExitCostModel())
    segments: Any = [SimpleNamespace(gives=("x",), provider="cpu"), SimpleNamespace(gives=("scores",), provider="cpu")]
    layered = EarlyExitModel(segments, [cache], "x", 1.0, CLASSES, 0.01, lambda: 1.0)
    refresher = Refresher(layered, 0.01)
    refresher.start()
    for row in (*stream(range(CLASSES), 800, 2), *stream([0, 1, 2], 800, 1)):
        refresher.hear(ExitResult(np.eye(CLASSES, dtype=np.float32)[row.label], row.label, seen=row.seen))
    until = time.monotonic() + 60
    while layered.caches[0].correction is None and time.monotonic() < until:
        time.sleep(0.1)
    begun = time.monotonic()
    refresher.stop()
    assert time.monotonic() - begun < 5
    assert layered.caches[0].correction is not None
