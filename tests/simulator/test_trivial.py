"""The trivial policies and the published policy: asked frames, answers, and chosen thresholds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.frame import Signature
from cachenet.shared.cascade.probability import softmax
from cachenet.shared.cascade.types import Hit, Reply
from cachenet.simulator.policies import trivial
from cachenet.simulator.policies.policies import DecisionPolicy, ModelTimer, make_policy
from cachenet.simulator.policies.trivial import Trivial
from cachenet.simulator.traces.trace import PictureTable, Trace
from tests.simulator.test_simulate import make_inputs

FULL = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
#: Right on frames 0 to 4 with 0.98, then wrong and uncertain.
BASE = np.where(np.arange(10) < 5, FULL, 0)


def make_trace(greys: list[float] | None = None) -> Trace:
    signatures = [
        Signature(np.full((12, 16), grey, np.float32), np.full((24, 32), grey, np.float32))
        for grey in greys or [float(frame) for frame in range(10)]
    ]
    logits = np.eye(3)[FULL] * 9
    base = np.eye(3)[BASE] * np.where(np.arange(10) < 5, 5.0, 1.0)[:, None]
    logits_by_model = {"full": logits.astype(np.float32), "base": base.astype(np.float32)}
    return Trace(FULL, np.arange(10), PictureTable(logits_by_model, np.full(10, 100), signatures))


def run(name: Trivial, trace: Trace, **setting: float) -> tuple[list[int], list[int]]:
    """Asked frames, and all answers."""
    rule = trivial.rule(name, trivial.inputs_of(trace, "base", 1.0), setting)
    answers, asked, levels = trivial.run(rule, trace.labels("full"), trace.rows)
    assert [level == "cloud" for level in levels] == asked.tolist()
    return np.flatnonzero(asked).tolist(), answers.tolist()


def choose(name: Trivial, budget: float) -> trivial.Setting:
    trace = make_trace()
    return trivial.choose(name, [trace], "full", [trivial.inputs_of(trace, "base", 1.0)], budget)


def test_hold_asks_about_every_nth_frame_and_holds_the_answer() -> None:
    assert run("hold", make_trace(), n=4) == ([0, 4, 8], [0, 0, 0, 0, 1, 1, 1, 1, 2, 2])


def test_difference_asks_where_the_picture_differs_from_the_asked_one_by_more_than_the_limit() -> None:
    asked, _ = run("difference", make_trace([0, 1, 2, 3, 3, 3, 3, 3, 9, 9]), limit=8.0)
    assert asked == [0, 3, 8]


def test_student_asks_where_the_confidence_is_under_the_threshold() -> None:
    assert run("student", make_trace(), sure=0.9) == ([5, 6, 7, 8, 9], [0, 0, 0, 1, 1, 1, 1, 2, 2, 2])


def test_student_and_hold_hold_an_answer_until_a_block_changes() -> None:
    asked, answers = run("student+hold", make_trace([0, 0, 0, 0, 0, 50, 50, 50, 99, 99]), sure=0.9, blocks=20)
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


def test_thresholds_are_chosen_on_the_compared_traces() -> None:
    assert choose("hold", 0.0)["n"] == 1
    sure = choose("student", 0.0)["sure"]
    assert run("student", make_trace(), sure=sure)[0] == [5, 6, 7, 8, 9]


def _is_hit(policy: DecisionPolicy, trace: Trace, index: int, submodel: str | None = None) -> bool:
    """Decide one frame; return whether it is a hit."""
    step = policy.lookup(trace.frame(index), float(index))
    hit = isinstance(step, Hit)
    reply = None if hit else Reply(index, trace.pictures.logits["full"][index], submodel)
    policy.complete(step, reply, float(index))
    return hit


def test_the_published_policy_uses_the_recommended_submodel_where_its_entropy_is_small() -> None:
    inputs, timer = make_inputs(), ModelTimer()
    own = make_policy("cachenet-paper", inputs.for_policy("cachenet-paper"), timer)
    assert not _is_hit(own, inputs.trace, 0, "own")
    assert own.pending_fetch == "own"
    assert own.install(inputs.model("own", timer)) == [] and own.pending_fetch is None
    hits = [_is_hit(own, inputs.trace, index, "own") for index in range(1, 200)]
    probabilities = softmax(inputs.trace.pictures.logits["own"][1:], 1.0)
    entropy = -(probabilities * np.log(probabilities)).sum(1)
    np.testing.assert_array_equal(hits, entropy <= inputs.manifest.entropy)
    assert 20 < sum(hits) < 199
    assert own.install(inputs.model("base", timer)) == ["own"]


def test_the_oracle_asks_only_where_held_answer_and_local_models_are_wrong() -> None:
    inputs = make_inputs()
    own = make_policy("oracle", inputs, ModelTimer())
    asked = [not _is_hit(own, inputs.trace, index) for index in range(200)]
    labels = inputs.trace.pictures.labels
    knows = (labels["base"] == labels["full"]) | (labels["own"] == labels["full"])
    assert not any(asked_ and known for asked_, known in zip(asked, knows.tolist(), strict=True))
    assert 0 < sum(asked) <= int((~knows).sum())
