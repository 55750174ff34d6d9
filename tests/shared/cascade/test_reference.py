"""Disagreement with the full model, as its definition says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.reference import WINDOW, Labels, disagreements

pairs = st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 2)), max_size=30)


def labels(*values: int) -> Labels:
    return np.array(values, np.int64)


def naive(answers: list[int], full: list[int]) -> list[bool]:
    found = []
    for frame, answer in enumerate(answers):
        accepted = {full[frame]}
        around = full[max(0, frame - 4) : frame + 5]
        if len(around) == 9:
            label, count = Counter(around).most_common(1)[0]
            if count >= 5:
                accepted.add(label)
        found.append(answer not in accepted)
    return found


@given(pairs)
def test_disagreement_follows_its_definition(frames: list[tuple[int, int]]) -> None:
    answers, full = [answer for answer, _ in frames], [label for _, label in frames]
    assert disagreements(labels(*answers), labels(*full)).tolist() == naive(answers, full)


@given(pairs)
def test_disagreement_never_exceeds_the_difference_by_frame(frames: list[tuple[int, int]]) -> None:
    answers, full = labels(*(answer for answer, _ in frames)), labels(*(label for _, label in frames))
    assert not (disagreements(answers, full) & (answers == full)).any()


def test_a_hold_through_one_flickering_frame_agrees() -> None:
    full = labels(*[0] * 6, 1, *[0] * 6)
    assert not disagreements(np.zeros_like(full), full).any()


def test_at_the_ends_only_the_answer_of_the_frame_counts() -> None:
    full = labels(1, *[0] * 12)
    assert disagreements(np.zeros_like(full), full).tolist() == [True, *[False] * 12]


def test_without_enough_frames_only_the_answer_of_the_frame_counts() -> None:
    full = labels(*[0] * (WINDOW - 2), 1)
    assert disagreements(np.zeros_like(full), full).tolist() == [*[False] * (WINDOW - 2), True]


def test_unknown_disagrees_always() -> None:
    full = labels(*range(20), *[0] * 20)
    assert disagreements(np.full_like(full, -1), full).all()


def test_a_different_number_of_answers_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 answers for 3 frames"):
        disagreements(labels(0, 0), labels(0, 0, 0))
