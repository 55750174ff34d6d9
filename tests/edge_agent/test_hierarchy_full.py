"""The full model on the device, beside a cloud that is slower, quicker or silent."""

from __future__ import annotations

from edge_agent.core.hierarchy import Hierarchy
from edge_agent.core.types import Answer, Ask, Reply
from shared.context import FORGETFUL
from tests.edge_agent.hierarchies import UNSURE, build, frame
from tests.edge_agent.models import local, logits


def asked(hierarchy: Hierarchy, index: int, wait: float | None) -> Answer:
    """A frame that no local model is sure of, and that the cloud answers after ``wait`` seconds, or never; driven as
    the agent drives it."""
    now = float(index)
    step = hierarchy.look(frame(index, {"base": logits(1, UNSURE), "full": logits(2, 6.0)}), now)
    assert isinstance(step, Ask)
    reply = hierarchy.here(step, now) if step.here else None
    if reply is None:
        now += 0.25 if wait is None else wait
        reply = None if wait is None else Reply(index, logits(2, 6.0))
        reply = reply or hierarchy.here(step, now)
    return hierarchy.settle(step, reply, now)


def test_the_full_model_on_the_device_answers_where_the_cloud_is_slower() -> None:
    hierarchy = build(parameters=FORGETFUL)
    hierarchy.install(local("full", seconds=0.05))
    assert hierarchy.full is not None
    levels = [asked(hierarchy, index, 0.2).level for index in range(200)]
    assert levels[:5] == ["cloud"] * 5
    tried = [index for index, level in enumerate(levels) if level == "cloud" and index >= 5]
    assert tried == [36, 100], "now and then the cloud is tried again, ever more seldom"
    assert hierarchy.tally.full == 193
    assert hierarchy.tally.hits["submodels"] == hierarchy.tally.hits["base"] == 0


def test_a_link_that_gets_better_is_used_again() -> None:
    hierarchy = build(parameters=FORGETFUL)
    hierarchy.install(local("full", seconds=0.05))
    for index in range(40):
        asked(hierarchy, index, 0.2)
    levels = [asked(hierarchy, index, 0.01).level for index in range(40, 1000)]
    assert levels[-1] == "cloud"
    assert levels.count("full") < 100


def test_the_full_model_on_the_device_stands_in_for_a_silent_cloud() -> None:
    """When the deadline is over there is no time left for it; then the cloud is known to be slow."""
    hierarchy = build(parameters=FORGETFUL)
    hierarchy.install(local("full", seconds=0.05))
    levels = [asked(hierarchy, index, None).level for index in range(30)]
    assert levels == ["fallback"] * 5 + ["full"] * 25
    step = hierarchy.look(frame(30, {"base": logits(1, UNSURE), "full": logits(2, 6.0)}), 30.0)
    assert isinstance(step, Ask)
    assert hierarchy.here(step, 30.21) is None, "50 ms do not fit into the 40 that are left"
    hierarchy.forgo()
    assert hierarchy.here(step, 30.0) is None


def test_a_quick_cloud_is_asked_although_the_full_model_is_here() -> None:
    hierarchy = build(parameters=FORGETFUL)
    hierarchy.install(local("full", seconds=0.05))
    assert {asked(hierarchy, index, 0.02).level for index in range(100)} == {"cloud"}
