"""Thresholds on the risk of local answers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.literature.thresholds import threshold

FRAMES = st.lists(st.tuples(st.sampled_from((0.0, 0.1, 0.2, 0.5, 0.9)), st.booleans()), min_size=1, max_size=40)


@given(FRAMES, st.floats(0, 1))
def test_the_threshold_is_the_largest_risk_whose_false_hits_are_within_the_limit(
    frames: list[tuple[float, bool]], limit: float
) -> None:
    risk, wrong = np.array([one for one, _ in frames]), np.array([one for _, one in frames])
    found = threshold(risk, wrong, limit)
    assert (wrong & (risk <= found)).mean() <= limit
    for larger in risk[risk > found]:
        # A larger threshold may be within the limit only by its own luck: none is, because false hits never decrease.
        assert (wrong & (risk <= larger)).mean() > limit
