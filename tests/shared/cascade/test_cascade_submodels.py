"""Submodels: when they look, and which are fetched."""

from __future__ import annotations

import pytest

from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.types import Hit, Miss, Prediction, Reply
from tests.shared.cascade.streams import SURE, UNSURE, View, build, frame, grey, local, logits
from tests.shared.cascade.test_cascade import ask


def look(cascade: Cascade, index: int, view: View) -> Hit | Miss:
    """A frame with a new picture."""
    return cascade.lookup(frame(index, view, grey(7.0 * (index % 35))), float(index))


def end(cascade: Cascade, step: Hit | Miss, label: int, submodel: str | None = None) -> None:
    reply = Reply(step.frame.index, logits(label, SURE), submodel) if isinstance(step, Miss) else None
    cascade.complete(step, reply, step.frame.index + 0.1)


def test_submodels_do_not_probe_where_the_base_models_risk_is_low() -> None:
    cascade = build(0.1)
    cascade.install(local("special", 0.9))
    for index in range(30):
        step = look(cascade, index, {"base": logits(1, SURE)})  # a submodel that looks would raise KeyError
        assert isinstance(step, Hit)
        end(cascade, step, 1)


def test_submodels_probe_where_the_base_models_risk_is_high() -> None:
    cascade = build(0.1)
    cascade.install(local("special", 0.9))
    steps = []
    for index in range(60):
        steps.append(look(cascade, index, {"base": logits(1, UNSURE), "special": logits(1, SURE)}))
        end(cascade, steps[-1], 1)
    answered = [step.prediction for step in steps if isinstance(step, Hit) and step.prediction.level == "submodels"]
    assert answered
    assert {(one.label, one.model) for one in answered} == {(1, "special")}
    assert cascade.tally.hits["submodels"] == len(answered)


def test_a_hit_of_a_submodel_marks_it_as_used() -> None:
    cascade = build(0.1)
    cascade.install(local("special", 0.9, cost=50))
    cascade.install(local("idle", 0.0, cost=50))
    for index in range(60):
        view = {"base": logits(1, UNSURE), "special": logits(1, SURE), "idle": logits(1, 0.0)}
        end(cascade, look(cascade, index, view), 1)
    assert cascade.tally.hits["submodels"] > 0
    assert cascade.install(local("new", cost=50)) == ["idle"], "the least recently used goes"


@pytest.mark.parametrize("margin", [0.0, 1.0, 2.0, 4.0, SURE])
def test_a_probe_never_makes_the_fallback_riskier(margin: float) -> None:
    """The fallback is the least risky candidate of all looks."""

    def fallback(*submodels: str) -> Prediction:
        cascade = build(1e-6)
        for name in submodels:
            cascade.install(local(name, 0.9))
        step = look(cascade, 0, {"base": logits(2, 4.0), "special": logits(1, margin)})
        assert isinstance(step, Miss)
        answer = cascade.complete(step, None, 0.1, "no answer in time")
        assert (answer.level, answer.label, answer.risk) == ("fallback", step.fallback.label, step.fallback.risk)
        return step.fallback

    assert fallback("special").risk <= fallback().risk


def recommend(cascade: Cascade, *names: str) -> str | None:
    """Frames that are asked about, each with a recommendation of the server; what is to be fetched after them."""
    cascade.pending_fetch = None
    for name in names:
        index = cascade.tally.frames
        cascade._budget.threshold = 1e-9
        step = look(cascade, index, logits(index % 3, UNSURE))
        assert isinstance(step, Miss)
        end(cascade, step, index % 3, name)
    return cascade.pending_fetch


def test_a_recommended_submodel_is_fetched_until_it_is_resident() -> None:
    cascade = build()
    assert recommend(cascade, "special") == "special"
    assert cascade.install(local("special", cost=100)) == []
    assert cascade.pending_fetch is None
    assert recommend(cascade, "special") is None
    assert cascade.install(local("other", cost=50)) == ["special"]
    assert [recommend(cascade, "special") for _ in range(3)] == [None, None, "special"], "another would have to go now"


def test_submodels_recommended_in_turn_do_not_evict_each_other() -> None:
    cascade = build()
    assert recommend(cascade, "one") == "one", "where there is room one recommendation is enough"
    cascade.install(local("one", cost=60))
    assert recommend(cascade, "two") == "two"
    assert cascade.install(local("two", cost=60)) == ["one"]
    assert recommend(cascade, "one", "two", "one", "two", "one", "two") is None
    assert recommend(cascade, "one", "one") is None
    assert recommend(cascade, "one") == "one"


def test_a_submodel_over_the_budget_is_not_fetched_again() -> None:
    cascade = build()
    assert recommend(cascade, "special") == "special"
    assert cascade.install(local("special", cost=101)) == ["special"]
    assert recommend(cascade, "special", "special", "special") is None


@pytest.mark.parametrize("late", [False, True])
def test_without_the_level_no_submodel_is_fetched_or_resident(late: bool) -> None:
    cascade = build(submodel_bytes=None)
    assert cascade.install(local("special")) == ["special"]
    cascade = build(submodel_bytes=None)
    ask(cascade, 0, 1, None, UNSURE)
    if late:
        cascade.on_late_reply(Reply(0, logits(1, SURE), "special"), 1.0)
    else:
        ask(cascade, 1, 2, 2, UNSURE, scene=1)
    assert cascade.pending_fetch is None
    assert cascade.evict_to(0) == []


def test_evicted_submodels_are_named_and_probe_no_more() -> None:
    cascade = build(0.1)
    cascade.install(local("special", 0.9, cost=10))
    assert cascade.evict_to(5) == ["special"]
    end(cascade, look(cascade, 0, {"base": logits(1, UNSURE)}), 1)


def test_the_full_model_is_installed_beside_the_submodels() -> None:
    cascade = build(submodel_bytes=10)
    assert cascade.install(local("full", cost=1000)) == []
    assert cascade.full is not None
    cascade.unload_full()
    assert cascade.full is None
