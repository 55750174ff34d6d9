"""A long run: what is learned from a stream while it runs does not wear the hierarchy down."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from edge_agent.core.audits import Audits
from models import recorded, replay, sample, streams
from models.replay import Recorded
from shared.bundle import Bundle

IMAGES, FRAMES, LAST = 400, 30_000, 5_000


def test_after_a_long_run_as_much_is_answered_as_at_the_beginning() -> None:
    """A stream on which trust in local models once fell with every mistake of the context, until it was gone: from
    frame 25,000 on little more than half of the frames were answered here, and before nearly all."""
    bundle = Bundle(Path(__file__).parents[2] / "models" / "zoo" / "cifar10")
    family = replay.family(bundle.manifest).generalists()
    split = sample.load().take(np.arange(IMAGES))
    pictures, models = recorded.as_pictures(split.images), recorded.opened(bundle)
    said = {name: recorded.run(*models[name], pictures) for name in (family.full, family.base, *family.general)}
    plan = streams.plan("dwell", split.labels, 4, FRAMES)
    stream = Recorded(plan.label, {name: own[plan.source] for name, own in said.items()}, None)
    hierarchy = replay.ours(stream, family, bundle.manifest.gate(0.01).claim)
    hierarchy.audits = Audits(0.01, 0.02, family.temperatures[family.full], random.Random(4).random)
    run = replay.run(stream, family, hierarchy)
    first, last = run.hit[:LAST].mean(), run.hit[-LAST:].mean()
    assert last > 0.95 and last > first - 0.02
    assert hierarchy.context.habits.trust > 0.5
