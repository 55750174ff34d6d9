"""A hierarchy of one local model, and frames for it."""

from __future__ import annotations

import numpy as np

from edge_agent.core.audits import Audits
from edge_agent.core.frame import Frame
from edge_agent.core.frames import FrameCache
from edge_agent.core.hierarchy import Hierarchy, Rules
from edge_agent.core.submodels import Submodels
from shared.context import Context
from shared.habits import ContextParameters
from tests.edge_agent.models import CLASSES, View, local, signature

SURE, UNSURE = 12.0, 0.3


def build(
    threshold: float = 0.05,
    parameters: ContextParameters | None = None,
    room: int = 100,
    audits: Audits | None = None,
) -> Hierarchy:
    return Hierarchy(
        Rules(0.0, 0.25, "full", 1.0, threshold),
        Context(CLASSES, parameters),
        FrameCache(),
        Submodels(room, np.full(CLASSES, 0.5)),
        local("base", level="base"),
        audits=audits,
    )


def frame(index: int, view: View | None, brightness: float | None = None) -> Frame:
    """Its picture is like no other's, unless ``brightness`` says what it is like."""
    return Frame(index, view, signature(37.0 * index if brightness is None else brightness))


def learned(hierarchy: Hierarchy) -> tuple[object, ...]:
    """All that learning may change."""
    assert hierarchy.frames is not None
    entries = [(e.trust, e.label, e.model, e.word.likelihood.tolist()) for e in hierarchy.frames._entries]
    habits = hierarchy.context.habits
    shown = habits.switch, habits.stranger, habits.newness, habits.wander, habits.trust, habits.errs(0.01)
    return hierarchy.context.working_set().tolist(), entries, list(hierarchy._recent), hierarchy.wanted, shown
