"""The reference: fair to a device that is right before the full model is."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.filter import Word
from shared.habits import ContextParameters
from shared.reference import WINDOW, reference
from tests.shared.film import CLASSES, Place, likelihood_of

PARAMETERS = ContextParameters(still=0.0, cut=1.0)


def unrelated(labels: list[int], confidence: float = 0.9) -> list[Word]:
    return [Word(likelihood_of(label, confidence), True) for label in labels]


def test_the_frames_that_follow_correct_the_first_as_those_before_correct_the_last() -> None:
    """A filter that only looks back would begin with the full model's own mistake."""
    assert reference(unrelated([3, *[1] * 15]), PARAMETERS) == [1] * WINDOW
    assert reference(unrelated([*[1] * 15, 3]), PARAMETERS) == [1] * WINDOW


def test_a_change_is_seen_in_the_frame_in_which_it_comes() -> None:
    assert reference(unrelated([1] * 8 + [2] * 8, 0.6), PARAMETERS) == [1] * 8 + [2] * 8


@given(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=WINDOW), st.floats(0.3, 0.999))
def test_one_object_has_one_label(labels: list[int], confidence: float) -> None:
    """However the full model's word wavers while nothing changes."""
    judged = reference([Word(likelihood_of(label, confidence), True, Place(0.0)) for label in labels], PARAMETERS)
    assert len(judged) == len(labels)
    assert set(judged) <= set(labels)
    assert len(set(judged)) == 1


def test_two_objects_that_a_cut_divides_are_judged_apart() -> None:
    words = [Word(likelihood_of(1, 0.7), True, Place(0.0))] * 9 + [Word(likelihood_of(2, 0.7), True, Place(9.0))] * 7
    assert reference(words, PARAMETERS) == [1] * 9 + [2] * 7


@given(st.floats(0.0, 0.7), st.integers(1, WINDOW), st.floats(3, 15))
def test_what_the_full_model_says_of_an_object_every_time_stands(moves: float, cut: int, nats: float) -> None:
    """However much of the picture its moving to and fro changes, and whatever comes after it: seen was a reference that
    gave the middle of a stay the label of the next object."""
    confidence = 1.0 - float(np.exp(-nats))
    places = [moves * (frame % 2) for frame in range(WINDOW)]
    first = [Word(likelihood_of(1, confidence), True, Place(place)) for place in places[:cut]]
    second = [Word(likelihood_of(2, confidence), True, Place(place + 9.0)) for place in places[cut:]]
    assert reference(first + second, PARAMETERS) == [1] * len(first) + [2] * len(second)


def test_a_thousand_classes_are_judged() -> None:
    likelihood = np.full(1000, 1e-4)
    likelihood[7] = 1 - 999e-4
    assert reference([Word(likelihood, True)] * WINDOW, PARAMETERS) == [7] * WINDOW
