"""Replies that come after their frame has been answered."""

from __future__ import annotations

import pytest

from edge_agent.core.types import Reply
from tests.edge_agent.hierarchies import SURE, UNSURE, build, frame, learned
from tests.edge_agent.models import logits


def test_a_late_reply_corrects_the_belief_at_its_own_frame_and_teaches() -> None:
    """As if it had come in time, but for what the working set had not heard yet."""
    late, never = build(), build()
    for hierarchy in (late, never):
        for index in range(3):
            shown = frame(index, logits(0, UNSURE), 100.0 + 2 * index)
            hierarchy.settle(hierarchy.look(shown, 0.0), None, 0.0)
    correction = late.late(Reply(0, logits(3, SURE), "special"), 0.0)
    assert correction is not None
    assert (correction.frame, correction.label, correction.bare) == (0, 3, 3)
    assert late.tally.corrections == 1
    assert late.context.belief.posterior[3] > 0.9 > never.context.belief.posterior[3]
    assert late.context.working_set().argmax() == 3
    assert list(late._recent) == [3]
    assert late.wanted == "special"
    assert late.tally.late == 1
    assert late.tally.fallbacks == 3, "its frame has ended already"
    assert late.frames is not None
    assert len(late.frames) == 1


@pytest.mark.parametrize("index", [0, 1, 7])
def test_a_reply_counts_once_and_only_for_a_frame_that_was_asked_and_not_answered(index: int) -> None:
    """Frame 0 was answered in time, 1 was a hit, 7 never was."""
    hierarchy = build()
    hierarchy.settle(hierarchy.look(frame(0, logits(1, UNSURE)), 0.0), Reply(0, logits(1, SURE)), 0.0)
    hierarchy.settle(hierarchy.look(frame(1, logits(1, SURE)), 0.0), None, 0.0)
    hierarchy.settle(hierarchy.look(frame(2, logits(1, 0.0)), 0.0), None, 0.0)
    before = learned(hierarchy)
    hierarchy.late(Reply(index, logits(3, SURE)), 0.0)
    assert learned(hierarchy) == before
    assert hierarchy.tally.late == 0


def test_a_late_reply_that_agrees_corrects_nothing() -> None:
    hierarchy = build()
    step = hierarchy.look(frame(0, logits(3, UNSURE)), 0.0)
    assert hierarchy.settle(step, None, 0.0).label == 3
    assert hierarchy.late(Reply(0, logits(3, SURE)), 0.0) is None
    assert (hierarchy.tally.late, hierarchy.tally.corrections) == (1, 0)


def test_a_late_reply_comes_once() -> None:
    hierarchy = build()
    hierarchy.settle(hierarchy.look(frame(0, logits(1, UNSURE)), 0.0), None, 0.0)
    for _ in range(2):
        hierarchy.late(Reply(0, logits(3, SURE)), 0.0)
    assert hierarchy.tally.late == 1
