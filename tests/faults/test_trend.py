"""A trend is found where there is one, whatever the level of each part."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.endurance import LIMITS, load, measures
from tests.faults.trend import trend

slopes, levels = st.floats(-10, 10), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4)


@given(slopes, levels)
def test_the_slope_of_lines_of_several_levels_is_exact(slope: float, starts: list[float]) -> None:
    parts = [[(float(x), start + slope * x) for x in range(6)] for start in starts]
    found = trend(parts)
    assert found.slope == pytest.approx(slope, abs=1e-6)
    assert found.low <= found.slope <= found.high


def test_noise_without_a_trend_is_flat_and_a_trend_in_noise_is_found() -> None:
    noise = np.random.default_rng(0).normal(size=60)
    flat = trend([list(enumerate(noise))])
    assert flat.low < 0 < flat.high
    assert trend([[(x, 0.2 * x + value) for x, value in enumerate(noise)]]).low > 0


def test_few_samples_say_nothing() -> None:
    assert trend([[(0.0, 1.0), (1.0, 2.0)]]) == (1.0, -math.inf, math.inf)
    assert trend([[(0.0, 0.0)]]).high == math.inf


def test_a_measure_that_grows_over_its_limit_is_named() -> None:
    level = dict.fromkeys(LIMITS, 10.0) | {"frames": 5000, "seconds": 1.0, "part": 0}
    samples = [{**level, "descriptors": 10.0 + at, "disk_bytes": 10.0 + at} for at in range(12)]
    found = measures(samples)
    assert found["growing"] == ["descriptors"]
    assert (found["frames"], found["parts"], found["updates"]) == (60_000, 1, 11)
    assert found["disk_bytes"]["growth_per_100000"] == [20.0, 20.0, 20.0]


def test_an_interrupted_run_continues_after_its_last_whole_sample(tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    assert load(samples) == []
    samples.write_text('{"part": 0}\n{"part": 1}\n{"part"')
    assert load(samples) == [{"part": 0}, {"part": 1}]
