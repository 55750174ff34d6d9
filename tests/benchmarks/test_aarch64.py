"""benchmarks.aarch64: which differences between the answers of two processors are found."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.aarch64.compare import TOLERANCE, compare

numbers = st.floats(-100, 100, width=32)
scores = st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=4)


@given(scores)
def test_equal_answers_pass_wherever_they_must_be_equal(answers: list[list[float]]) -> None:
    [one] = compare({"base": answers}, {"base": [list(row) for row in answers]}, tolerances={"base": 0.0})
    assert one.within_tolerance and one.equal == one.frames == len(answers)


@given(scores, st.data())
def test_a_single_changed_score_fails_where_answers_must_be_equal(
    answers: list[list[float]], data: st.DataObject
) -> None:
    frame, label = data.draw(st.integers(0, len(answers) - 1)), data.draw(st.integers(0, 2))
    changed = [list(row) for row in answers]
    changed[frame][label] = math.nextafter(changed[frame][label], math.inf)
    [one] = compare({"base": answers}, {"base": changed}, tolerances={"base": 0.0})
    assert not one.within_tolerance and one.equal == len(answers) - 1
    [tolerated] = compare({"base": answers}, {"base": changed}, tolerances={})
    assert tolerated.within_tolerance


@pytest.mark.parametrize(
    "found",
    [
        pytest.param([[[0, 0.9, 0.1, 0.1, 0.2, 0.3 + 2 * TOLERANCE]]], id="a box elsewhere"),
        pytest.param([[[0, 0.9, 0.1, 0.1, 0.2, 0.3], [0, 0.3, 0.5, 0.5, 0.6, 0.6]]], id="another object"),
        pytest.param([[]], id="no object"),
        pytest.param([[[1, 0.9, 0.1, 0.1, 0.2, 0.3]]], id="another label"),
        pytest.param([[[0, math.nan, 0.1, 0.1, 0.2, 0.3]]], id="no number"),
        pytest.param([], id="no frame"),
    ],
)
def test_other_objects_fail(found: list[list[list[float]]]) -> None:
    known = [[[0, 0.9, 0.1, 0.1, 0.2, 0.3]]]
    assert [one.within_tolerance for one in compare({"full": known}, {"full": known}, tolerances={})] == [True]
    assert [one.within_tolerance for one in compare({"full": known}, {"full": found}, tolerances={})] == [False]


def test_a_model_that_did_not_answer_fails_and_each_model_has_its_tolerance() -> None:
    compared = compare({"full": [[1.0]], "base": [[1.0]]}, {"base": [[1.5]]}, tolerances={"base": 0.5})
    assert [(one.model, one.equal, one.within_tolerance) for one in compared] == [("full", 0, False), ("base", 0, True)]
