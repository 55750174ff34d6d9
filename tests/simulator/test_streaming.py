"""Streaming F1: an answer counts from when it comes until a newer one comes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.detect.detections import NOTHING, Detections, checked, counts, pooled_f1
from cachenet.simulator.live.streaming import streaming_counts

PERIOD_S = 0.1


def person(left: float) -> Detections:
    """One person, whose left edge is at ``left``."""
    return checked([[left, 0.2, left + 0.1, 0.6]], [0], [0.9], classes=1)


#: A scene in which the person walks on by more than half of its width each frame, so that a late answer is wrong.
SCENE = [person(0.08 * place) for place in range(8)]
SCENES = st.lists(st.sampled_from([*SCENE, NOTHING]), min_size=1, max_size=8)


@given(SCENES, st.data())
def test_answers_without_delay_count_for_their_frames(answers: list[Detections], data: st.DataObject) -> None:
    reference = data.draw(st.lists(st.sampled_from([*SCENE, NOTHING]), min_size=len(answers), max_size=len(answers)))
    found = streaming_counts(answers, np.zeros(len(answers)), reference, PERIOD_S)
    assert found.tolist() == [list(counts(*pair)) for pair in zip(answers, reference, strict=True)]


@given(st.lists(st.floats(0, 1), min_size=8, max_size=8))
def test_every_object_is_found_or_missed_whatever_the_delays(delays: list[float]) -> None:
    found = streaming_counts(SCENE, np.array(delays), SCENE, PERIOD_S)
    assert found[:, [0, 2]].sum(1) == pytest.approx(np.ones(8))
    assert (found >= 0).all()


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_an_answer_is_wrong_for_as_long_as_it_is_late(share: float) -> None:
    found = streaming_counts(SCENE, np.full(8, share * PERIOD_S), SCENE, PERIOD_S)
    assert found[1:] == pytest.approx(np.tile([1 - share, share, share], (7, 1)))
    assert found[0] == pytest.approx([1 - share, 0, share]), "before the first answer there is nothing"
    assert pooled_f1(found[1:]) == pytest.approx(1 - share)


def test_a_late_answer_does_not_replace_that_of_a_newer_frame() -> None:
    delays = np.zeros(8)
    delays[2] = 2.5 * PERIOD_S
    found = streaming_counts(SCENE, delays, SCENE, PERIOD_S)
    assert found[[0, 1, 3, 4, 5, 6, 7]].tolist() == [[1, 0, 0]] * 7
    assert found[2].tolist() == [0, 1, 1]


def test_f1_is_of_all_frames_together_and_1_where_there_is_nothing() -> None:
    assert pooled_f1(np.array([[3.0, 0.0, 0.0], [0.0, 1.0, 1.0]])) == pytest.approx(0.75)
    assert pooled_f1(streaming_counts([NOTHING], np.zeros(1), [NOTHING], PERIOD_S)) == 1.0
