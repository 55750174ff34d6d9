"""A long run: what is learned from a stream while it runs does not wear the cascade down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cachenet.models.certify import recorded, replay
from cachenet.models.certify.replay import Recorded
from cachenet.models.data import sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.media.signature import sign

pytestmark = pytest.mark.slow

IMAGES, FRAMES, LAST = 400, 8_000, 2_000


def test_after_a_long_run_as_much_is_answered_as_at_the_beginning_within_the_budget() -> None:
    bundle = Bundle(Path(__file__).parents[2] / "models" / "zoo" / "cifar10")
    family = replay.family(bundle.manifest).generalists()
    split = sample.load().take(np.arange(IMAGES))
    pictures, models = recorded.as_pictures(split.images), recorded.opened(bundle)
    said = recorded.run_all({name: models[name] for name in (family.full, family.base, *family.general)}, pictures)
    signatures = [sign(picture) for picture in pictures]
    plan = streams.plan("dwell", split.labels, 4, FRAMES)
    source = plan.source.tolist()
    stream = Recorded(
        plan.label, {name: own[plan.source] for name, own in said.items()}, [signatures[one] for one in source]
    )
    run = replay.run(stream, family, replay.cascade(stream, family, audit_floor=0.02))
    hit = ~run.asked
    assert hit[-LAST:].mean() > hit[:LAST].mean() - 0.02
    assert disagreements(run.labels, stream.trace(family).labels)[-LAST:].mean() <= 0.02
