"""The trivial policies on recordings that are made by hand."""

from __future__ import annotations

import numpy as np

from benchmarks.real import trivial
from benchmarks.real.trivial import Tried, tried
from cachenet.shared.cascade.probability import softmax
from tests.benchmarks.real.drawn import recording


def test_hold_asks_every_nth_frame_and_repeats_the_answer() -> None:
    made = recording(full=[0, 1, 1, 2, 2])
    run = trivial.hold(made, softmax(made.base, 1.0), n=2)
    assert run.asked.tolist() == [True, False, True, False, True]
    assert run.labels.tolist() == [0, 0, 1, 1, 2]
    assert run.level == ["cloud", "frames", "cloud", "frames", "cloud"]
    assert not run.local_ms.any()


def test_difference_asks_where_the_picture_left_that_of_the_asked_frame() -> None:
    made = recording(full=[0, 0, 1, 1, 2], grey=[10, 12, 14, 14, 11])
    run = trivial.difference(made, softmax(made.base, 1.0), limit=8.0)  # more than 2.8 grey levels
    assert run.asked.tolist() == [True, False, True, False, True]
    assert run.labels.tolist() == [0, 0, 1, 1, 2]


def test_student_asks_where_it_is_less_sure_than_the_threshold() -> None:
    made = recording(full=[0, 1, 2], base=[0, 0, 0])
    probabilities = np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.8, 0.1, 0.1]])
    run = trivial.student(made, probabilities, sure=0.8)
    assert run.asked.tolist() == [False, True, False]
    assert run.labels.tolist() == [0, 1, 0]


def test_student_hold_holds_until_a_block_changes_or_the_answer_is_old() -> None:
    grey = [10, 10, 30, *[30] * 51]
    made = recording(full=[1, 2, *[0] * 52], base=[2] * 54, grey=grey)
    unsure = np.full((54, 3), 1 / 3)
    run = trivial.student_hold(made, unsure, sure=0.9, blocks=5.0)
    assert np.flatnonzero(run.asked).tolist() == [0, 2, 52]
    assert run.labels.tolist() == [1, 1, *[0] * 52]
    sure = np.tile([0.0, 0.0, 1.0], (54, 1))
    assert not trivial.student_hold(made, sure, sure=0.9, blocks=5.0).asked.any()


def test_the_oracle_asks_only_where_neither_hold_nor_student_is_right() -> None:
    run = trivial.oracle(recording(full=[1, 1, 0, 2, 2, 1], base=[0, 0, 0, 1, 0, 0]))
    assert run.asked.tolist() == [True, False, False, True, False, True]
    assert run.labels.tolist() == [1, 1, 0, 2, 2, 1]


def test_server_only_asks_for_every_frame() -> None:
    run = trivial.server_only(recording(full=[0, 1]))
    assert run.asked.all()
    assert run.full_answered.all()


def attempts(asked: list[float], disagreement: list[float]) -> Tried:
    n = len(asked)
    return Tried([{}] * n, [], np.array(asked), np.array(disagreement), np.ones((n, 1), bool))


def test_the_setting_that_asks_least_within_the_budget_is_chosen() -> None:
    assert attempts([0.5, 0.2, 0.1], [0.0, 0.02, 0.03]).choice(0.02) == 1


def test_of_settings_that_ask_equally_the_one_that_disagrees_least_is_chosen() -> None:
    assert attempts([0.2, 0.2], [0.02, 0.01]).choice(0.02) == 1


def test_without_a_setting_within_the_budget_the_least_disagreement_is_chosen() -> None:
    assert attempts([0.1, 0.9, 0.5], [0.5, 0.1, 0.1]).choice(0.02) == 2


def test_no_setting_of_any_policy_replaces_an_answer_of_the_full_model() -> None:
    made = recording(full=[0, 1, 2, 2] * 30, base=[0, 1, 1, 2] * 30, grey=[0, 90, 180, 180] * 30)
    for name, (_, settings) in trivial.POLICIES.items():
        whole = trivial.attempt(name, made, softmax(made.base, 1.0))
        assert len(whole.runs) == len(settings)
        assert all((run.labels == made.labels)[run.full_answered].all() for run in whole.runs)


def test_the_shares_of_settings_are_those_of_their_runs() -> None:
    made = recording(full=[0, 1, 1, 1], base=[0, 0, 0, 1])
    whole = tried([{"n": 2}], [trivial.hold(made, softmax(made.base, 1.0), n=2)], made)
    assert (whole.asked[0], whole.disagreement[0], whole.agreement[0]) == (0.5, 0.25, 0.75)
