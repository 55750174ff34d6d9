"""Whether tracks answer or detections themselves is decided by held-out footage."""

from __future__ import annotations

import pytest

from cachenet.models.detect.certify import direct_is_better
from tests.shared.cascade.detect.scenes import walkers


@pytest.mark.parametrize(("found", "direct"), [(1.0, True), (0.6, False)])
def test_tracks_answer_for_a_detector_that_misses_objects_and_not_for_one_that_finds_all(
    found: float, direct: bool
) -> None:
    traces = [walkers(200, seed, found=found, false=0.0) for seed in (6, 7)]
    assert direct_is_better(traces[:1], traces[1:], "base", 0.4) == direct
