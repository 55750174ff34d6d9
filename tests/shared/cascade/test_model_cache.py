"""The submodels on the device: which stay within the budget of bytes, and which is recommended."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.model_cache import LocalModel, ModelCache
from tests.shared.cascade.streams import CLASSES, local, logits

BASE = np.full(CLASSES, 0.5)


def test_the_least_recently_used_goes_first() -> None:
    cache = ModelCache(30, BASE)
    for name in "abc":
        assert cache.admit(local(name, cost=10)) == []
    assert not cache.has_evicted
    assert cache.touch("a")
    assert cache.admit(local("d", cost=10)) == ["b"]
    assert cache.has_evicted
    assert cache.names() == ("a", "c", "d")
    assert cache.admit(local("e", cost=20)) == ["c", "a"]
    assert cache.names() == ("d", "e")


def test_a_model_over_the_budget_is_refused_without_evictions() -> None:
    cache = ModelCache(20, BASE)
    cache.admit(local("a", cost=20))
    assert cache.admit(local("b", cost=21)) == ["b"]
    assert cache.names() == ("a",)


def test_a_model_that_is_admitted_again_replaces_itself() -> None:
    cache = ModelCache(20, BASE)
    cache.admit(local("a", cost=10))
    cache.admit(local("b", cost=10))
    newer = local("a", cost=10)
    assert cache.admit(newer) == []
    assert cache.names() == ("a", "b")
    assert newer in cache.residents and len(cache.residents) == 2


def test_touch_returns_whether_the_model_is_resident() -> None:
    cache = ModelCache(20, BASE)
    cache.admit(local("a", cost=10))
    assert cache.touch("a")
    assert not cache.touch("b")


@given(
    st.integers(0, 50),
    st.lists(
        st.one_of(
            st.tuples(st.just("admit"), st.sampled_from("abcdef"), st.integers(0, 60)),
            st.tuples(st.just("evict"), st.just(""), st.integers(0, 60)),
            st.tuples(st.just("touch"), st.sampled_from("abcdef"), st.just(0)),
        ),
        max_size=40,
    ),
)
def test_least_recently_used_models_are_evicted_down_to_the_budget(
    budget: int, steps: list[tuple[str, str, int]]
) -> None:
    """No more are evicted than necessary, least recently used first; evicted models are not resident."""
    cache = ModelCache(budget, BASE)
    used: dict[str, int] = {}  # cost by name, the least recently used first
    for what, name, number in steps:
        if what == "touch":
            assert cache.touch(name) == (name in used)
            if name in used:
                used[name] = used.pop(name)
            continue
        if what == "admit":
            gone = cache.admit(local(name, cost=number))
            if number > budget:
                assert gone == [name]
                assert set(cache.names()) == set(used)
                continue
            used.pop(name, None)
            used[name] = number
        else:
            gone = cache.evict_to(number)
        bound = budget if what == "admit" else number
        expected = []
        while sum(used.values()) > bound:
            expected.append(oldest := next(iter(used)))
            del used[oldest]
        assert gone == expected
        assert cache.names() == tuple(sorted(used)) == tuple(sorted(model.name for model in cache.residents))
        assert cache.cost() == sum(used.values()) <= bound


def test_the_recommended_model_has_the_largest_gain_over_the_residents() -> None:
    cache = ModelCache(100, BASE)
    others = {"low": np.array([0.9, 0.9, 0.1, 0.1]), "high": np.array([0.1, 0.1, 0.9, 0.9]), "none": BASE}
    for _ in range(20_000):
        cache.count_labels(np.array([0.1, 0.1, 0.4, 0.4]))
    for _ in range(100):
        cache.count_labels(np.array([0.5, 0.5, 0.0, 0.0]))
    assert cache.recommend(others) == "high", "a passing change of scene is not what is usual"
    cache.admit(local("high", (0.1, 0.1, 0.9, 0.9), 10))
    assert cache.recommend({"low": others["low"], "none": BASE}) == "low"
    assert cache.recommend({"none": BASE}) is None
    assert cache.recommend({}) is None


def test_a_run_gives_logits_and_probabilities_at_the_models_temperature() -> None:
    model = LocalModel("base", lambda view: view, 2.0, BASE)
    looked = model.run(logits(1, 4.0))
    assert looked is not None
    scores, probabilities = looked
    np.testing.assert_array_equal(scores, logits(1, 4.0))
    odds = probabilities[1] / probabilities[0]
    assert np.isclose(odds, np.exp(4.0 / 2.0))
    assert np.isclose(probabilities.sum(), 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_run_with_damaged_scores_gives_nothing(bad: float) -> None:
    damaged = logits(1, 4.0)
    damaged[2] = bad
    assert local("base").run(damaged) is None
    assert local("base").run(logits(0, 4.0, CLASSES + 1)) is None
    assert local("base").run(logits(0, 4.0, CLASSES - 1)) is None
