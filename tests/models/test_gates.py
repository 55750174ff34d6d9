"""Thresholds: what is promised of them, on streams made up to have known answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from models import gates, replay
from models.replay import Family, Recorded
from shared.context import FORGETFUL
from tests.edge_agent.models import signature

CLASSES = 4


def stream(seed: int, frames: int, sly: float) -> Recorded:
    """The full model is right and sure; the base model, too, but that on the share ``sly`` of frames it is as sure of
    another label."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, frames)
    said = np.where(rng.random(frames) < sly, (truth + 1) % CLASSES, truth)
    margin = rng.uniform(2, 12, frames)[:, None]
    logits = {
        "full": np.float32(20) * np.eye(CLASSES, dtype=np.float32)[truth],
        "base": (margin * np.eye(CLASSES)[said]).astype(np.float32),
    }
    return Recorded(truth, logits, None)


def kind(several: Iterable[Recorded]) -> gates.Kind:
    streams = list(several)
    return gates.Kind(streams, streams)


def family() -> Family:
    return Family(
        "full",
        "base",
        (),
        {"full": 1.0, "base": 1.0},
        {"full": np.ones(CLASSES), "base": np.full(CLASSES, 0.5)},
        {"full": 0.01, "base": 0.001},
        FORGETFUL,
    )


def fit(kinds: list[gates.Kind], budgets: list[float], grid: Sequence[float] = gates.GRID) -> list[float]:
    return gates.fit(kinds, family(), budgets, 0.95, [gates.Search(replay.ours, grid)])[0]


def test_a_base_model_that_never_errs_may_answer_nearly_all() -> None:
    threshold = fit([kind(stream(seed, 300, 0.0) for seed in range(8))], [0.01], gates.GRID[2::10])[0]
    assert threshold == gates.GRID[-1]


def test_errors_that_no_threshold_can_tell_close_the_gate() -> None:
    thresholds = fit([kind(stream(seed, 300, 0.5) for seed in range(8))], [0.005, 0.01])
    assert thresholds == [0.0, 0.0]


def test_more_processes_change_nothing() -> None:
    kinds, budgets = [kind(stream(seed, 100, 0.02) for seed in range(6))], [0.005, 0.02]
    grid = gates.GRID[3:12:4]
    searches = [gates.Search(replay.ours, grid), gates.Search(replay.ours, grid[:1])]
    one, two = (gates.fit(kinds, family(), budgets, 0.95, searches, workers) for workers in (1, 2))
    assert one == two


def test_the_worst_kind_of_stream_decides() -> None:
    good, bad = ([stream(seed, 300, sly) for seed in range(8)] for sly in (0.0, 0.5))
    assert fit([kind(good), kind(bad)], [0.01]) == [0.0]


def test_a_stream_over_the_budget_is_let_be_where_there_are_so_many_that_one_says_little() -> None:
    """The mean over streams would allow a few bad ones among many good ones."""
    apart = [stream(seed, 300, 0.0) for seed in range(8)]
    bad = [stream(seed, 300, 0.5) for seed in range(8, 12)]
    last = gates.GRID[-1]
    assert fit([gates.Kind(apart, apart * 12 + bad[:1])], [0.01], [last]) == [last]
    assert fit([gates.Kind(apart, apart * 12 + bad[:2])], [0.01], [last]) == [0.0]
    assert fit([gates.Kind(apart, apart * 8 + bad[:1])], [0.01], [last]) == [0.0]


@pytest.mark.parametrize("count", [59, 92, 93, 100, 200, 5000])
def test_so_few_exceptions_show_that_no_more_than_a_twentieth_are_and_one_more_would_not(count: int) -> None:
    """Were a twentieth of all streams over the budget, so few would be in one draw of twenty at most."""
    allowed = gates.exceptions(count, 0.95)
    draws = np.random.default_rng(0).binomial(count, 0.05, 400_000)
    assert (draws <= allowed).mean() < 0.051
    assert (draws <= allowed + 1).mean() > 0.05


def test_where_streams_are_too_few_to_show_anything_one_exception_is_let_be() -> None:
    assert [gates.exceptions(count, 0.95) for count in (3, 16, 58)] == [1, 1, 1]


def test_a_larger_budget_never_gives_a_stricter_threshold() -> None:
    streams = [stream(seed, 400, 0.02) for seed in range(8)]
    thresholds = fit([kind(streams)], [0.002, 0.005, 0.01, 0.02, 0.05], gates.GRID[::3])
    assert thresholds == sorted(thresholds)
    assert thresholds[-1] > thresholds[0]


def test_at_the_fitted_threshold_the_budget_holds_on_other_streams() -> None:
    budget, grid = 0.01, gates.GRID[::4]
    # The bound holds in nineteen fits of twenty; over five of them chance evens out.
    thresholds = [
        fit([kind(stream(at + seed, 400, 0.012) for seed in range(12))], [budget], grid)[0] for at in range(0, 60, 12)
    ]
    threshold = sorted(thresholds)[2]
    assert threshold > 0
    rates = []
    for seed in range(100, 130):
        fresh = stream(seed, 400, 0.012)
        run = replay.run(fresh, family(), replay.ours(fresh, family(), threshold))
        rates.append(run.false_hits(replay.reference_labels(fresh, family())))
    assert np.mean(rates) <= budget


@pytest.mark.parametrize(
    ("confidence", "freedom", "expected"), [(0.95, 15, 1.753), (0.975, 19, 2.093), (0.95, 5, 2.015)]
)
def test_students_quantiles_are_those_of_the_tables(confidence: float, freedom: int, expected: float) -> None:
    assert gates.student(confidence, freedom) == pytest.approx(expected, rel=0.01)


def test_coverage_is_the_share_of_each_label_that_is_sure_and_agrees() -> None:
    full = np.eye(2, dtype=np.float32)[[0, 0, 0, 0, 1, 1]] * 10
    local = np.array([[9, 0], [9, 0], [0, 9], [0.1, 0], [0, 9], [0, 0.1]], np.float32)
    np.testing.assert_allclose(gates.coverage(local, 1.0, full, 0.05), [0.5, 0.5])


def test_wander_is_found_again_where_it_was_put_in() -> None:
    """One object in sight, whose margin has a standard deviation of 1.2 nats from view to view: 1.7 between two."""
    rng = np.random.default_rng(0)
    streams = []
    for centre in rng.uniform(0, 4, 40):
        logits = np.zeros((200, CLASSES), np.float32)
        logits[:, 0] = centre + rng.normal(0, 1.2, 200)
        logits[:, 2:] = -20
        grey = [signature(90.0)] * 200
        streams.append(Recorded(np.zeros(200, np.int64), {"full": logits, "base": logits}, grey))
    assert gates.wander([streams], family()) == pytest.approx(1.7, rel=0.25)


def test_where_no_stream_tells_wander_is_the_default() -> None:
    assert gates.wander([[stream(0, 100, 0.0)]], family()) == family().context.wander


def test_candour_is_less_the_more_often_the_full_model_differs_than_the_belief_doubts() -> None:
    assert gates.candour([[stream(seed, 300, 0.0) for seed in range(4)]], family()) == 1.0
    assert gates.candour([[stream(seed, 300, 0.1) for seed in range(4)]], family()) < 0.8
