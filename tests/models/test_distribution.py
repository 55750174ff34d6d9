"""The fitted distribution of scores on footage."""

from __future__ import annotations

import numpy as np
import pytest

from cachenet.models.certify.distribution import LEAST_FRAMES, Look, fit_least, fit_quantiles
from cachenet.shared.cascade.distribution import Distribution, DistributionMonitor, log_sum_exp

CLASSES = 5


def logits(seed: int, frames: int, scale: float = 3.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=(frames, CLASSES))).astype(np.float32)


def looks(rows: np.ndarray) -> list[list[Look]]:
    return [[("base", row)] for row in rows]


def fitted() -> Distribution:
    return fit_quantiles(logits(0, 1000), logits(1, 1000))


def test_quantiles_rise_from_the_smallest_to_the_largest_log_sum_exp() -> None:
    footage = logits(0, 200)
    found = fit_quantiles(footage, footage)
    values = [log_sum_exp(row) for row in footage]
    assert list(found.full) == sorted(found.full)
    assert (found.full[0], found.full[-1]) == pytest.approx((min(values), max(values)), rel=1e-4)
    assert found.least == 0.0


def test_too_little_footage_gives_no_threshold() -> None:
    short = looks(logits(2, LEAST_FRAMES - 1))
    assert fit_least(fitted(), [short]) == 0.0
    assert fit_least(fitted(), [short, looks(logits(3, 1))]) > 0.0


def test_few_frames_in_distribution_and_most_others_fall_below_the_threshold() -> None:
    least = fit_least(fitted(), [looks(logits(seed, 1000)) for seed in range(10, 20)])
    assert 0.2 < least < 0.5

    def share(rows: np.ndarray) -> float:
        monitor = DistributionMonitor(Distribution(fitted().full, fitted().base, least))
        out = []
        for row in rows:
            monitor.update("base", row)
            monitor.count()
            out.append(monitor.frames_out > 0)
        return float(np.mean(out[100:]))

    assert np.mean([share(logits(seed, 1000)) for seed in range(30, 40)]) < 0.05
    assert share(logits(40, 1000, scale=0.5)) > 0.95


def test_frames_without_a_model_run_are_allowed() -> None:
    rows = looks(logits(5, LEAST_FRAMES))
    rows[1::2] = [[] for _ in rows[1::2]]
    assert 0.0 < fit_least(fitted(), [rows]) <= 0.5
