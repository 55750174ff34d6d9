"""Intervals by blocks of frames, and comparisons at equal questions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.objects import measure
from cachenet.models.certify import intervals
from cachenet.models.certify.intervals import BLOCK
from cachenet.shared.cascade.detect.detections import pooled_f1


def tallies(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5, (frames, 3))


@given(st.integers(1, 400))
def test_blocks_cover_all_frames_and_none_is_much_shorter(frames: int) -> None:
    first = intervals.starts(frames)
    lengths = np.diff(np.append(first, frames))
    assert first[0] == 0
    assert lengths.sum() == frames
    assert len(first) == 1 or lengths.min() >= BLOCK / 2


def test_means_of_blocks_are_of_their_own_frames() -> None:
    values = np.repeat([0.0, 1.0, 2.0], BLOCK)
    assert intervals.block_means(values).tolist() == [0, 1, 2]


def test_an_interval_holds_the_f1_and_narrows_with_frames() -> None:
    few, many = tallies(5 * BLOCK), tallies(50 * BLOCK)
    widths = []
    for counts in (few, many):
        within = intervals.interval(counts, seed=0)
        assert within is not None
        assert within[0] <= pooled_f1(counts) <= within[1]
        widths.append(within[1] - within[0])
    assert widths[1] < widths[0]


def test_one_block_has_no_interval() -> None:
    assert intervals.interval(tallies(BLOCK), seed=0) is None


def test_a_policy_does_not_differ_from_itself() -> None:
    own = tallies(200)
    assert intervals.difference(own, [own, own], (0.3, 0.7), seed=0) == (0.0, [0.0, 0.0])


def test_equal_blocks_are_drawn_for_all_so_a_constant_gain_is_certain() -> None:
    """One policy misses an object in each frame that the other finds: they differ in every block alike."""
    own = np.tile([4, 0, 0], (300, 1))
    other = np.tile([3, 0, 1], (300, 1))
    value, within = intervals.difference(own, [other], (1.0,), seed=0)
    assert within is not None
    assert value == pytest.approx(1 - 6 / 7)
    assert within == pytest.approx([value, value], abs=1e-5)


def tried(asked: float, hits: int) -> Any:
    counts = np.tile([hits, 0, 10 - hits], (120, 1))
    return SimpleNamespace(measured=SimpleNamespace(asked_share=asked, counts=counts, streaming_f1=pooled_f1(counts)))


@pytest.mark.parametrize(
    ("asked", "hits", "at"), [(0.3, 7.0, 0.3), (0.2, 6.0, 0.2), (0.05, 5.0, 0.1), (0.9, 8.0, 0.4), (0.1, 5.0, 0.1)]
)
def test_the_other_policy_is_interpolated_at_equal_questions(asked: float, hits: float, at: float) -> None:
    """Between settings by share asked; outside of them the nearest one stands."""
    others = [tried(0.4, 8), tried(0.1, 5), tried(0.2, 6)]
    row = measure.paired(tried(asked, 9).measured, others, seed=0)
    between = {5.0: [5], 6.0: [6], 7.0: [6, 8], 8.0: [8]}[hits]
    expected = np.mean([2 * one / (one + 10) for one in between])
    assert row["other_f1"] == pytest.approx(expected, abs=1e-5)
    assert row["other_asked"] == pytest.approx(at)
    assert row["difference"] == pytest.approx(18 / 19 - expected, abs=1e-5)
