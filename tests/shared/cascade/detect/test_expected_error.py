"""The expected object error against a simulation of what it states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.shared.cascade.detect.expected_error import answered, expected_error
from cachenet.shared.cascade.detect.tracks import NO_TRACKS, observe
from tests.shared.cascade.detect.scenes import boxes

shares = st.lists(st.floats(0, 1), max_size=6).map(np.array)


@given(shares, shares, st.floats(0, 5))
def test_the_expected_error_is_a_share(answer: np.ndarray, others: np.ndarray, missed: float) -> None:
    assert -1e-9 <= expected_error(answer, others, missed) <= 1.0 + 1e-9


def test_certain_answers_have_no_error_and_wrong_ones_all() -> None:
    assert expected_error(np.ones(3), np.zeros(2), 0.0) == pytest.approx(0.0)
    assert expected_error(np.zeros(0), np.zeros(0), 0.0) == 0.0
    assert expected_error(np.zeros(3), np.zeros(0), 0.0) == pytest.approx(1.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_expected_error_is_near_the_mean_of_drawn_scenes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answer, others = rng.uniform(0.5, 1, rng.integers(1, 7)), rng.uniform(0, 0.5, rng.integers(0, 4))
    missed = float(rng.uniform(0, 1))
    draws = 4000
    true = (rng.random((draws, len(answer))) < answer).sum(1)
    unanswered = (rng.random((draws, len(others))) < others).sum(1) + rng.poisson(missed, draws)
    errors = 1 - 2 * true / (len(answer) + true + unanswered)
    # The number of objects that are not answered enters by its mean.
    assert expected_error(answer, others, missed) == pytest.approx(errors.mean(), abs=0.12)


@given(st.floats(0.5, 1), st.floats(0.0, 0.49))
def test_of_two_boxes_of_one_object_the_likelier_is_answered(high: float, low: float) -> None:
    tracks = observe(NO_TRACKS, boxes((0.1, 0.1, 0.3, 0.3), (0.6, 0.6, 0.8, 0.8)), 0)
    twice = tracks.take(np.array([0, 0, 1]))
    rows = answered(twice, np.array([0.5 * high + 0.25, 0.5 * high + 0.4, low]))
    assert rows.tolist() == [1]
