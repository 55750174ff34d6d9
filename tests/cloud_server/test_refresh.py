"""Refreshed caches: better on what is asked now, never worse on what was asked before, or as they were."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cloud_server.refresh import Row, Terms, Window, refresh
from shared.gate import posterior
from shared.layered import Correction, Seen

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
        rows.append(Row({0: Seen(features, scores)}, label if lie is None else lie, 1.0))
    return rows


def hits(rows: Sequence[Row], correction: Correction | None) -> tuple[int, int]:
    """How many are answered, and how many of these falsely."""
    features, scores = (np.stack([getattr(row.seen[0], name) for row in rows]) for name in Seen._fields)
    degree = 1.0
    if correction is not None:
        scores, degree = correction.apply(features, scores), correction.temperature
    belief = posterior(scores, degree)
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
    for correction in refresh(recent, ever, TERMS).values():
        old = stream(range(CLASSES), 2000, 3)
        assert hits(old, correction)[1] <= max(hits(old, None)[1], 0.015 * len(old))


def test_without_a_past_or_with_little_to_go_by_caches_stay_as_they_are() -> None:
    rows = stream([0, 1], 1000, 1)
    assert refresh(rows, rows, TERMS) == {}, "what is proven must not have been learned from"
    assert refresh(rows[:3], stream([0, 1], 500, 2), TERMS) == {}


def test_a_window_keeps_the_latest_and_some_of_all_times() -> None:
    rng = np.random.default_rng(0)
    window = Window(lambda: float(rng.random()))
    rows = [Row({}, number, 1.0) for number in range(8000)]
    for row in rows:
        window.add(row)
    recent, ever = window.rows()
    assert recent == rows[-len(recent) :] and len(recent) == 2048
    assert len(ever) == 1024
    places = np.array([row.label for row in ever])
    assert 3500 < places.mean() < 4500, "of all times alike"
