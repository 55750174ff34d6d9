"""A stream is out of distribution by the mean of its scores, not by one frame."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cachenet.models.certify.distribution import LEAST_FRAMES, fit_least, fit_quantiles
from cachenet.shared.cascade.distribution import Distribution, DistributionMonitor, Source, log_sum_exp

Logits = npt.NDArray[np.float32]


def scores(n: int, seed: int, level: float = 8.0) -> Logits:
    """Logits of five classes, the largest about ``level``."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(0.0, 1.0, (n, 5))
    drawn[np.arange(n), rng.integers(0, 5, n)] += level
    return drawn.astype(np.float32)


def footage() -> Distribution:
    return msgspec.structs.replace(fit_quantiles(scores(1000, 0), scores(1000, 1)), least=0.3)


def outs(monitor: DistributionMonitor, source: Source, rows: Logits) -> list[int]:
    found = []
    for row in rows:
        monitor.update(source, row)
        monitor.count()
        found.append(monitor.frames_out)
    return found


@given(hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(-80, 80, width=32)))
def test_log_sum_exp_is_the_logarithm_of_the_sum_of_exponentials(values: Logits) -> None:
    assert log_sum_exp(values) == pytest.approx(math.log(sum(math.exp(float(value)) for value in values)), abs=1e-6)


def test_log_sum_exp_is_finite_for_huge_logits() -> None:
    assert log_sum_exp(np.array([3e38, -3e38], np.float32)) == pytest.approx(3e38)


@pytest.mark.parametrize("source", ["full", "base"])
def test_a_stream_with_typical_scores_is_never_out_after_its_beginning(source: Source) -> None:
    for seed in range(5):
        found = outs(DistributionMonitor(footage()), source, scores(600, 10 + seed))
        assert max(found[:30]) <= 20, "a short beginning may look out"
        assert max(found[30:]) == 0


@pytest.mark.parametrize("source", ["full", "base"])
def test_a_stream_with_low_scores_is_out_from_the_beginning_on(source: Source) -> None:
    found = outs(DistributionMonitor(footage()), source, scores(200, 10, level=1.0))
    assert found == list(range(1, 201))


def test_a_stream_that_leaves_the_distribution_and_returns_is_followed() -> None:
    monitor = DistributionMonitor(footage())
    assert outs(monitor, "full", scores(200, 1))[-1] == 0
    gone = outs(monitor, "full", scores(200, 2, level=1.0))
    assert gone[0] == 0 and gone[-1] > 100
    assert outs(monitor, "full", scores(200, 3))[-1] == 0


def test_a_few_unusual_frames_are_still_in_distribution() -> None:
    monitor = DistributionMonitor(footage())
    outs(monitor, "full", scores(200, 1))
    assert max(outs(monitor, "full", scores(8, 2, level=1.0))) == 0


def test_a_frame_counts_once_for_any_number_of_models() -> None:
    monitor = DistributionMonitor(footage())
    for row in scores(10, 2, level=1.0):
        monitor.update("base", row)
        monitor.update("full", row)
        monitor.count()
    assert monitor.frames_out == 10


def test_each_model_has_its_own_quantiles() -> None:
    """The student's scores are half as large as the full model's, on the very footage."""
    shown = fit_quantiles(scores(1000, 0, level=16.0), scores(1000, 1, level=6.0))
    shown = msgspec.structs.replace(shown, least=0.3)
    assert outs(DistributionMonitor(shown), "base", scores(300, 2, level=6.0))[-1] == 0
    assert outs(DistributionMonitor(shown), "full", scores(300, 2, level=6.0))[-1] == 300


def test_footage_itself_lies_evenly_between_its_quantiles() -> None:
    rows = scores(1000, 0)
    shown = fit_quantiles(rows, rows)
    assert shown.full == shown.base == tuple(sorted(shown.full))
    assert shown.least == 0.0
    monitor = DistributionMonitor(shown)
    outs(monitor, "full", rows)
    assert monitor.mean == pytest.approx(0.5, abs=0.1)


def test_more_of_the_same_footage_seldom_falls_under_the_least_mean() -> None:
    shown = fit_quantiles(scores(1000, 0), scores(1000, 1))
    streams = [[[("full", row)] for row in scores(500, 20 + seed)] for seed in range(5)]
    least = fit_least(shown, streams)  # type: ignore[arg-type]
    assert 0.2 < least < 0.5
    monitor = DistributionMonitor(msgspec.structs.replace(shown, least=least))
    found = outs(monitor, "full", scores(2000, 40))
    assert sum(one > 0 for one in found[100:]) <= 0.05 * 1900


def test_too_little_footage_gives_no_least_mean() -> None:
    shown = fit_quantiles(scores(100, 0), scores(100, 1))
    frame = [("full", row) for row in scores(1, 2)]
    assert fit_least(shown, [[frame] * (LEAST_FRAMES - 1)]) == 0.0  # type: ignore[list-item]
    assert fit_least(shown, [[frame] * LEAST_FRAMES]) > 0.0  # type: ignore[list-item]
    assert fit_least(shown, []) == 0.0
