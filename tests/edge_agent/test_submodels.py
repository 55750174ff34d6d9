from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.frame import Frame
from edge_agent.core.submodels import Submodels
from shared.context import Context
from tests.edge_agent.models import CLASSES, local, logits

BASE = np.full(CLASSES, 0.5)


def context_of(*labels: int) -> Context:
    """One that has seen these labels, at its first frame."""
    context = Context(CLASSES)
    for label in labels:
        context.learn(label)
    context.advance(0)
    return context


def frame(margin: float = 3.0) -> Frame:
    return Frame(0, logits(1, margin))


def test_the_least_recently_used_goes_first() -> None:
    submodels = Submodels(30, BASE)
    for name in "abc":
        assert submodels.admit(local(name, cost=10)) == []
    assert submodels.touch("a")
    assert submodels.admit(local("d", cost=10)) == ["b"]
    assert set(submodels.names()) == {"c", "a", "d"}
    assert submodels.admit(local("e", cost=20)) == ["c", "a"]
    assert set(submodels.names()) == {"d", "e"}


def test_a_model_that_can_never_fit_is_sent_back_and_nobody_goes_for_it() -> None:
    submodels = Submodels(20, BASE)
    submodels.admit(local("a", cost=20))
    assert submodels.admit(local("b", cost=21)) == ["b"]
    assert submodels.names() == ("a",)


def test_a_model_that_comes_again_takes_its_own_place() -> None:
    submodels = Submodels(20, BASE)
    submodels.admit(local("a", cost=10))
    submodels.admit(local("b", cost=10))
    assert submodels.admit(local("a", cost=10)) == []
    assert set(submodels.names()) == {"b", "a"}


def test_touching_tells_whether_the_model_is_here() -> None:
    submodels = Submodels(20, BASE)
    submodels.admit(local("a", cost=10))
    assert submodels.touch("a")
    assert not submodels.touch("b")


@given(
    st.integers(0, 50),
    st.lists(
        st.one_of(
            st.tuples(st.just("admit"), st.sampled_from("abcdef"), st.integers(0, 60)),
            st.tuples(st.just("shrink"), st.just(""), st.integers(0, 60)),
            st.tuples(st.just("touch"), st.sampled_from("abcdef"), st.just(0)),
        )
    ),
)
def test_the_residents_never_cost_more_than_the_budget(budget: int, steps: list[tuple[str, str, int]]) -> None:
    """And whoever is told to go is not resident, whoever is resident was admitted."""
    submodels = Submodels(budget, BASE)
    costs: dict[str, int] = {}
    for what, name, number in steps:
        if what == "touch":
            assert submodels.touch(name) == (name in costs)
            continue
        bound = budget
        if what == "admit":
            before = set(costs)
            gone = submodels.admit(local(name, cost=number))
            if number > budget:
                assert gone == [name]
                assert set(submodels.names()) == before
                continue
            costs[name] = number
        else:
            gone, bound = submodels.shrink(number), number
        for left in gone:
            del costs[left]
        assert set(submodels.names()) == set(costs)
        assert sum(costs.values()) <= bound


def test_the_likely_one_answers_most_of_what_is_usual_and_nobody_here_does() -> None:
    submodels = Submodels(100, BASE)
    others = {"low": np.array([0.9, 0.9, 0.1, 0.1]), "high": np.array([0.1, 0.1, 0.9, 0.9]), "none": BASE}
    for _ in range(20_000):
        submodels.expect(np.array([0.1, 0.1, 0.4, 0.4]))
    for _ in range(100):
        submodels.expect(np.array([0.5, 0.5, 0.0, 0.0]))
    assert submodels.likely(others) == "high", "a passing change of scene is not what is usual"
    submodels.admit(local("high", (0.1, 0.1, 0.9, 0.9), 10))
    assert submodels.likely({"low": others["low"], "none": BASE}) == "low"
    assert submodels.likely({"none": BASE}) is None
    assert submodels.likely({}) is None


def test_a_guess_is_the_models_own_word_and_what_the_context_makes_of_it() -> None:
    context = context_of(1, 1, 1, 1)
    guess = local("base").guess(frame(margin=1.0), context)
    assert guess.word is not None
    assert guess.word.likelihood.max() < guess.belief.posterior.max(), "the past speaks for the label too"
    np.testing.assert_allclose(guess.belief.posterior, context.fuse(guess.word).posterior)
    assert guess.belief.risk == 1 - guess.belief.posterior.max()
    assert guess.label == 1
