"""Submodels that are recommended: which are wanted, and until when."""

from __future__ import annotations

import numpy as np

from edge_agent.core.hierarchy import Hierarchy, Rules
from edge_agent.core.submodels import Submodels
from edge_agent.core.types import Ask, Reply
from shared.context import Context
from tests.edge_agent.hierarchies import SURE, UNSURE, build, frame
from tests.edge_agent.models import CLASSES, local, logits


def test_a_recommended_submodel_is_wanted_until_it_is_here() -> None:
    hierarchy = build(room=100)
    ask_again = iter(range(100))

    def recommended() -> str | None:
        index = next(ask_again)
        step = hierarchy.look(frame(index, logits(index % CLASSES, 0.0), 255.0 * (index % 2)), 0.0)
        assert isinstance(step, Ask)
        hierarchy.settle(step, Reply(index, logits(index % CLASSES, 1.0), "special"), 0.0)
        hierarchy.frames = None
        return hierarchy.wanted

    hierarchy = Hierarchy(
        hierarchy.rules, hierarchy.context, None, Submodels(100, np.full(CLASSES, 0.5)), local("base", level="base")
    )
    assert recommended() == "special"
    assert hierarchy.install(local("special", cost=100)) == []
    assert hierarchy.wanted is None
    assert recommended() is None
    assert hierarchy.install(local("other", cost=50)) == ["special"]
    assert [recommended() for _ in range(3)] == [None, None, "special"], "another would have to go for it now"


def test_two_submodels_that_take_turns_do_not_drive_each_other_out() -> None:
    hierarchy = build(room=100)
    assert hierarchy.submodels is not None

    def recommend(*names: str) -> str | None:
        hierarchy.wanted = None
        for name in names:
            index = hierarchy.tally.frames
            step = hierarchy.look(frame(index, logits(index % CLASSES, UNSURE)), float(index))
            assert isinstance(step, Ask)
            hierarchy.settle(step, Reply(index, logits(index % CLASSES, SURE), name), float(index))
        return hierarchy.wanted

    assert recommend("one") == "one", "where there is room it comes at once"
    hierarchy.install(local("one", cost=60))
    assert recommend("two") == "two"
    assert hierarchy.install(local("two", cost=60)) == ["one"]
    assert recommend("one", "two", "one", "two", "one", "two") is None
    assert recommend("one", "one") is None
    assert recommend("one") == "one", "but it may insist"


def test_a_submodel_that_can_never_fit_is_not_wanted_again() -> None:
    hierarchy = build(room=100)
    hierarchy.wanted = "special"
    assert hierarchy.install(local("special", cost=101)) == ["special"]
    step = hierarchy.look(frame(0, logits(1, UNSURE)), 0.0)
    hierarchy.settle(step, Reply(0, logits(1, SURE), "special"), 0.0)
    assert hierarchy.wanted is None


def test_without_the_level_no_submodel_is_wanted_or_kept() -> None:
    hierarchy = Hierarchy(Rules(0.0, 0.25, "full", 1.0, 0.05), Context(CLASSES))
    step = hierarchy.look(frame(0, None), 0.0)
    hierarchy.settle(step, Reply(0, logits(1, SURE), "special"), 0.0)
    assert hierarchy.wanted is None
    assert hierarchy.install(local("special")) == ["special"]
