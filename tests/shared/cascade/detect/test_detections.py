"""Detections: what is valid, their overlap and their matching."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.detect.detections import (
    MAX_DETECTIONS,
    NOTHING,
    Detections,
    checked,
    counts,
    f1,
    iou,
    match,
)
from tests.shared.cascade.detect.scenes import boxes, same

numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)
rows = st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=12)
shares = st.floats(0, 1, width=32)


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    corners = draw(st.lists(st.tuples(shares, shares, shares, shares), max_size=8))
    n = len(corners)
    labels = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    scores = draw(st.lists(shares, min_size=n, max_size=n))
    return checked(np.array(corners).reshape(-1, 4), labels, scores, classes=3)


@given(rows, st.data())
def test_whatever_a_model_gives_the_result_is_inside_the_picture_and_finite(
    corners: list[tuple[float, float, float, float]], data: st.DataObject
) -> None:
    n = len(corners)
    labels = data.draw(st.lists(st.integers(-3, 9), min_size=n, max_size=n))
    scores = data.draw(st.lists(numbers, min_size=n, max_size=n))
    found = checked(np.array(corners, np.float32).reshape(-1, 4), labels, scores, classes=4)
    assert ((found.boxes >= 0) & (found.boxes <= 1)).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert ((found.labels >= 0) & (found.labels < 4)).all()
    assert (np.diff(found.scores) <= 0).all()


def test_of_ten_thousand_boxes_those_of_highest_score_stay() -> None:
    scores = np.linspace(0, 1, 10_000)
    found = checked(np.tile([0.1, 0.1, 0.2, 0.2], (10_000, 1)), np.zeros(10_000), scores, classes=1)
    assert len(found) == MAX_DETECTIONS
    assert found.scores.min() >= scores[-MAX_DETECTIONS].astype(np.float32)


@pytest.mark.parametrize(
    ("labels", "scores"), [([0], [0.5, 0.5]), ([0, 0], [0.5]), ([[0], [0]], [0.5, 0.5]), ([0, 0], [[0.5], [0.5]])]
)
def test_arrays_that_do_not_fit_are_refused(labels: list[int], scores: list[float]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        checked([[0, 0, 1, 1], [0, 0, 1, 1]], labels, scores, classes=1)


@given(detections(), st.randoms(use_true_random=False))
def test_the_order_of_a_model_changes_nothing(found: Detections, random: object) -> None:
    order = np.arange(len(found))
    random.shuffle(order)  # type: ignore[attr-defined]
    again = checked(found.boxes[order], found.labels[order], found.scores[order], classes=3)
    assert same(again, found)


@given(detections(), detections())
def test_overlap_is_symmetric_and_at_most_one(one: Detections, other: Detections) -> None:
    overlap = iou(one.boxes, other.boxes)
    np.testing.assert_allclose(overlap, iou(other.boxes, one.boxes).T, atol=1e-6)
    assert (overlap <= 1 + 1e-6).all()


@given(detections(), detections())
def test_a_match_is_one_to_one_of_equal_labels_and_enough_overlap(one: Detections, other: Detections) -> None:
    pairs = match(one.boxes, one.labels, other.boxes, other.labels)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    overlap = iou(one.boxes, other.boxes)
    assert all(one.labels[i] == other.labels[j] and overlap[i, j] >= 0.5 for i, j in pairs)


@given(detections(), detections())
def test_counts_add_up(one: Detections, other: Detections) -> None:
    true, false, missed = counts(one, other)
    assert (true + false, true + missed) == (len(one), len(other))
    assert f1(true, false, missed) == pytest.approx(f1(true, missed, false))


def test_nothing_is_right_where_there_is_nothing() -> None:
    assert f1(*counts(NOTHING, NOTHING)) == 1.0
    assert f1(*counts(NOTHING, boxes((0, 0, 0.5, 0.5)))) == 0.0
