"""The label filter: a belief that follows the stream, and not a single odd answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.label_filter import LabelFilter
from cachenet.shared.cascade.probability import softmax
from tests.shared.cascade.streams import logits

CLASSES = 4

steps = st.lists(
    st.one_of(
        st.just(("predict", 0)),
        st.tuples(st.just("answer"), st.integers(0, CLASSES - 1)),
        st.tuples(st.just("look"), st.integers(0, CLASSES - 1)),
        st.tuples(st.just("late"), st.integers(0, CLASSES - 1)),
    ),
    max_size=60,
)


def answered(filter_: LabelFilter, label: int, frames: int, first: int = 0) -> int:
    """Let the full model answer frames with one label; return the index of the next frame."""
    for index in range(first, first + frames):
        filter_.predict()
        filter_.update_full(index, label)
    return first + frames


@given(steps, st.floats(0, 200))
def test_the_belief_is_a_probability_after_any_updates(taken: list[tuple[str, int]], margin: float) -> None:
    filter_ = LabelFilter(CLASSES)
    for index, (what, label) in enumerate(taken):
        if what == "predict":
            filter_.predict()
        elif what == "look":
            filter_.update(softmax(logits(label, margin)))
        else:
            filter_.update_full(index if what == "answer" else index // 2, label)
        for probabilities in (filter_.belief, filter_.after_change):
            assert np.isfinite(probabilities).all() and (probabilities >= 0).all()
            assert probabilities.sum() == pytest.approx(1.0)
        assert 0 < filter_.change_rate <= 0.5


@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_any_number_of_labels_will_do(classes: int) -> None:
    filter_ = LabelFilter(classes)
    answered(filter_, classes - 1, 3)
    filter_.update(np.full(classes, 1.0 / classes))
    assert filter_.belief.argmax() == classes - 1
    assert filter_.belief.sum() == pytest.approx(1.0)


def test_one_other_answer_does_not_change_a_settled_belief() -> None:
    filter_ = LabelFilter(CLASSES)
    index = answered(filter_, 1, 50)
    answered(filter_, 2, 1, index)
    assert filter_.belief.argmax() == 1


def test_a_changed_label_is_believed_after_a_few_answers() -> None:
    filter_ = LabelFilter(CLASSES)
    index = answered(filter_, 1, 50)
    answered(filter_, 2, 3, index)
    assert filter_.belief.argmax() == 2


def test_a_confident_local_model_changes_the_belief_over_several_frames() -> None:
    filter_ = LabelFilter(CLASSES)
    answered(filter_, 1, 50)
    beliefs = []
    for _ in range(20):
        filter_.predict()
        filter_.update(softmax(logits(2, 4.0)))
        beliefs.append(int(filter_.belief.argmax()))
    assert beliefs[0] == 1
    assert beliefs[-1] == 2


def test_a_uniform_likelihood_changes_nothing() -> None:
    filter_ = LabelFilter(CLASSES)
    answered(filter_, 1, 5)
    before = filter_.belief
    filter_.update(np.full(CLASSES, 0.25))
    np.testing.assert_allclose(filter_.belief, before)


def test_without_answers_the_belief_decays_to_the_recent_labels() -> None:
    filter_ = LabelFilter(CLASSES)
    index = answered(filter_, 0, 20)
    answered(filter_, 1, 20, index)
    for _ in range(2000):
        filter_.predict()
    np.testing.assert_allclose(filter_.belief, filter_.after_change, atol=1e-6)
    assert filter_.belief[1] > filter_.belief[0] > 5 * filter_.belief[2] > 0


def test_old_labels_are_forgotten_and_new_ones_stay_possible() -> None:
    filter_ = LabelFilter(CLASSES)
    index = answered(filter_, 0, 200)
    answered(filter_, 1, 200, index)
    assert filter_.after_change[1] > 0.9
    assert filter_.after_change[0] < 0.05
    assert filter_.after_change[2] > 0.05 / CLASSES


def test_the_change_rate_is_learned() -> None:
    calm, busy = LabelFilter(CLASSES), LabelFilter(CLASSES)
    for index in range(300):
        calm.update_full(index, 0)
        busy.update_full(index, (index // 4) % CLASSES)
    assert calm.change_rate < 0.005
    assert busy.change_rate == pytest.approx(0.25, abs=0.05)


def test_the_change_rate_is_per_frame_at_any_rate_of_answers() -> None:
    seldom = LabelFilter(CLASSES)
    for index in range(0, 10_000, 10):
        seldom.update_full(index, (index // 100) % CLASSES)
    assert seldom.change_rate == pytest.approx(0.01, abs=0.004)


def test_late_answers_to_older_frames_leave_the_change_rate_as_it_is() -> None:
    in_time, late = LabelFilter(CLASSES), LabelFilter(CLASSES)
    for index in range(0, 400, 4):
        for filter_ in (in_time, late):
            filter_.update_full(index, (index // 40) % CLASSES)
        late.update_full(max(0, index - 30), (max(0, index - 30) // 40) % CLASSES)
    assert late.change_rate == pytest.approx(in_time.change_rate, rel=0.2)
