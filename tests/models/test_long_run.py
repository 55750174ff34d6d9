"""A long replay: learning from the stream does not degrade the cascade."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cachenet.models.certify import traces
from cachenet.models.data import sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.reference import disagreements

pytestmark = pytest.mark.slow

IMAGES, FRAMES, LAST = 400, 8_000, 2_000


def test_at_the_end_of_a_long_run_as_many_frames_are_hits_as_at_the_beginning_within_the_budget() -> None:
    bundle = Bundle(Path(__file__).parents[2] / "models" / "zoo" / "cifar10")
    family = traces.family_of(bundle.manifest).general_only()
    models = traces.open_models(bundle)
    models = {name: models[name] for name in (family.full, family.base, *family.general)}
    split = sample.load().take(np.arange(IMAGES))
    [stream] = traces.record_streams([streams.schedule("dwell", split.labels, 4, FRAMES)], split, models)
    run = traces.replay(stream, family, traces.device_cascade(stream, family, audit_floor=0.02))
    hit = ~run.asked
    assert hit[-LAST:].mean() > hit[:LAST].mean() - 0.02
    assert disagreements(run.labels, stream.trace(family).labels)[-LAST:].mean() <= 0.02
