"""The trivial policies on hand-made recordings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.real import trivial
from benchmarks.real.recording import Recording
from benchmarks.real.trivial import Run, Tried, tried
from cachenet.shared.cascade.probability import softmax
from cachenet.simulator.policies.trivial import Trivial
from tests.benchmarks.real.drawn import recording


def run(name: Trivial, made: Recording, probabilities: npt.NDArray[np.float64] | None = None, **setting: float) -> Run:
    student = softmax(made.base, 1.0) if probabilities is None else probabilities
    return trivial.run(name, made, trivial.inputs_of(made, student), setting)


def test_hold_asks_every_nth_frame_and_repeats_the_answer() -> None:
    found = run("hold", recording(full=[0, 1, 1, 2, 2]), n=2)
    assert found.asked.tolist() == [True, False, True, False, True]
    assert found.labels.tolist() == [0, 0, 1, 1, 2]
    assert found.level == ["cloud", "frames", "cloud", "frames", "cloud"]
    assert not found.local_ms.any()


def test_difference_asks_where_the_picture_differs_from_the_asked_one() -> None:
    made = recording(full=[0, 0, 1, 1, 2], grey=[10, 12, 14, 14, 11])
    found = run("difference", made, limit=8.0)  # more than 2.8 grey levels
    assert found.asked.tolist() == [True, False, True, False, True]
    assert found.labels.tolist() == [0, 0, 1, 1, 2]
    assert (found.local_ms == made.grey_ms).all()


def test_student_asks_where_its_confidence_is_under_the_threshold() -> None:
    made = recording(full=[0, 1, 2], base=[0, 0, 0])
    found = run("student", made, np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.8, 0.1, 0.1]]), sure=0.8)
    assert found.asked.tolist() == [False, True, False]
    assert found.labels.tolist() == [0, 1, 0]
    assert (found.local_ms == made.base_ms).all()


def test_student_hold_holds_until_a_block_changes_or_the_answer_is_old() -> None:
    grey = [10, 10, 30, *[30] * 51]
    made = recording(full=[1, 2, *[0] * 52], base=[2] * 54, grey=grey)
    found = run("student+hold", made, np.full((54, 3), 1 / 3), sure=0.9, blocks=5.0)
    assert np.flatnonzero(found.asked).tolist() == [0, 2, 52]
    assert found.labels.tolist() == [1, 1, *[0] * 52]
    assert not run("student+hold", made, np.tile([0.0, 0.0, 1.0], (54, 1)), sure=0.9, blocks=5.0).asked.any()


def test_the_oracle_asks_only_where_neither_hold_nor_student_is_right() -> None:
    found = trivial.oracle(recording(full=[1, 1, 0, 2, 2, 1], base=[0, 0, 0, 1, 0, 0]))
    assert found.asked.tolist() == [True, False, False, True, False, True]
    assert found.labels.tolist() == [1, 1, 0, 2, 2, 1]


def test_server_only_asks_for_every_frame() -> None:
    found = trivial.server_only(recording(full=[0, 1]))
    assert found.asked.all()
    assert found.misses.all()


def measured(asked: list[float], disagreement: list[float]) -> Tried:
    n = len(asked)
    return Tried([{}] * n, [], np.array(asked), np.array(disagreement), np.ones((n, 1), bool))


def test_the_setting_that_asks_least_within_the_budget_is_chosen() -> None:
    assert measured([0.5, 0.2, 0.1], [0.0, 0.02, 0.03]).choice(0.02) == 1


def test_of_settings_that_ask_equally_the_one_that_disagrees_least_is_chosen() -> None:
    assert measured([0.2, 0.2], [0.02, 0.01]).choice(0.02) == 1


def test_without_a_setting_within_the_budget_the_least_disagreement_is_chosen() -> None:
    assert measured([0.1, 0.9, 0.5], [0.5, 0.1, 0.1]).choice(0.02) == 2


def test_no_setting_of_any_policy_replaces_an_answer_of_the_full_model() -> None:
    made = recording(full=[0, 1, 2, 2] * 30, base=[0, 1, 1, 2] * 30, grey=[0, 90, 180, 180] * 30)
    for name, settings in trivial.SETTINGS.items():
        found = trivial.run_all(name, made, softmax(made.base, 1.0))
        assert len(found.runs) == len(settings)
        assert all((run.labels == made.labels)[run.misses].all() for run in found.runs)


def test_the_shares_of_settings_are_those_of_their_runs() -> None:
    made = recording(full=[0, 1, 1, 1], base=[0, 0, 0, 1])
    found = tried([{"n": 2}], [run("hold", made, n=2)], made)
    assert (found.asked[0], found.disagreement[0], found.agreement[0]) == (0.5, 0.25, 0.75)
