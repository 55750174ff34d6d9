"""Trivial policies, and the published rule: what is asked, what is answered, and which thresholds are chosen."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.frame import Signature
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.cascade.types import Hit, Reply
from cachenet.simulator.policies import trivial
from cachenet.simulator.policies.policies import DecisionPolicy, ModelTimer, mind
from cachenet.simulator.policies.trivial import Rule, Student, Trivial
from cachenet.simulator.traces.trace import Pictures, Trace
from tests.simulator.test_world import kit

FULL = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
#: Right on frames 0 to 4 with 0.98, wrong and unsure after.
BASE = np.where(np.arange(10) < 5, FULL, 0)


def film(greys: list[float] | None = None) -> Trace:
    signatures = [
        Signature(np.full((12, 16), grey, np.float32), np.full((24, 32), grey, np.float32))
        for grey in greys or [float(frame) for frame in range(10)]
    ]
    logits = np.eye(3)[FULL] * 9
    base = np.eye(3)[BASE] * np.where(np.arange(10) < 5, 5.0, 1.0)[:, None]
    logits_by_model = {"full": logits.astype(np.float32), "base": base.astype(np.float32)}
    return Trace(FULL, np.arange(10), Pictures(logits_by_model, np.full(10, 100), signatures))


def run(name: Trivial, shown: Trace, **setting: float) -> tuple[list[int], list[int]]:
    """Frames asked, and all answers."""
    own: Rule = trivial.rule(name, Student(shown, "base", 1.0), setting)
    asked, answers = [], []
    for index in range(len(shown)):
        frame = shown.frame(index)
        local = own.answer(frame)
        if local is None:
            asked.append(index)
            own.keep(frame, int(FULL[index]))
        answers.append(int(FULL[index]) if local is None else local[0])
    return asked, answers


def test_hold_asks_about_every_nth_frame_and_holds_the_answer() -> None:
    assert run("hold", film(), n=4) == ([0, 4, 8], [0, 0, 0, 0, 1, 1, 1, 1, 2, 2])


def test_difference_asks_where_the_picture_is_further_than_the_limit_from_the_asked_one() -> None:
    asked, _ = run("difference", film([0, 1, 2, 3, 3, 3, 3, 3, 9, 9]), limit=8.0)
    assert asked == [0, 3, 8]


def test_student_asks_where_the_base_model_is_not_sure_enough() -> None:
    assert run("student", film(), sure=0.9) == ([5, 6, 7, 8, 9], [0, 0, 0, 1, 1, 1, 1, 2, 2, 2])


def test_student_and_hold_holds_an_answer_until_a_block_changes() -> None:
    asked, answers = run("student+hold", film([0, 0, 0, 0, 0, 50, 50, 50, 99, 99]), sure=0.9, blocks=20)
    assert asked == [5, 8]
    assert answers == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20), st.floats(0, 1))
def test_the_cheapest_setting_within_the_budget_is_chosen(pairs: list[tuple[float, float]], budget: float) -> None:
    asked, disagreement = np.array(pairs).T
    chosen = trivial.cheapest(asked, disagreement, budget)
    within = disagreement <= budget
    if within.any():
        assert within[chosen] and asked[chosen] == asked[within].min()
    else:
        assert disagreement[chosen] == disagreement.min()


def test_thresholds_are_chosen_on_the_films_that_are_compared() -> None:
    """No picture changes, so a hold may not look through the changes of the full model: it has to ask every frame."""
    assert trivial.choose("hold", [film()], "full", "base", 1.0, 0.0)["n"] == 1
    sure = trivial.choose("student", [film()], "full", "base", 1.0, 0.0)["sure"]
    assert run("student", film(), sure=sure)[0] == [5, 6, 7, 8, 9]


def _complete(own: DecisionPolicy, shown: Trace, index: int, submodel: str | None = None) -> bool:
    """Whether the frame was answered locally."""
    step = own.lookup(shown.frame(index), float(index))
    hit = isinstance(step, Hit)
    reply = None if hit else Reply(index, shown.pictures.logits["full"][index], submodel)
    own.complete(step, reply, float(index))
    return hit


def test_the_published_rule_trusts_the_recommended_submodel_where_its_entropy_is_small() -> None:
    shown, meter = kit(), ModelTimer()
    own = mind("cachenet-paper", shown.of("cachenet-paper"), meter)
    assert not _complete(own, shown.film, 0, "own")
    assert own.pending_fetch == "own"
    assert own.install(shown.model("own", meter)) == [] and own.pending_fetch is None
    hits = [_complete(own, shown.film, index, "own") for index in range(1, 200)]
    probabilities = softmax(shown.film.pictures.logits["own"][1:], 1.0)
    entropy = -(probabilities * np.log(probabilities)).sum(1)
    np.testing.assert_array_equal(hits, entropy <= shown.manifest.entropy)
    assert 20 < sum(hits) < 199
    assert own.install(shown.model("base", meter)) == ["own"]


def test_the_oracle_asks_no_more_than_a_held_answer_and_local_models_leave_wrong() -> None:
    shown = kit()
    own = mind("oracle", shown, ModelTimer())
    asked = [not _complete(own, shown.film, index) for index in range(200)]
    first = shown.film.pictures.first
    knows = (first["base"] == first["full"]) | (first["own"] == first["full"])
    assert not any(asked_ and known for asked_, known in zip(asked, knows.tolist(), strict=True))
    assert 0 < sum(asked) <= int((~knows).sum())
