"""Blocks of frames: the units that certificates count."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cachenet.models.certify.blocks import GAP, LENGTH, blocks


@given(st.integers(0, 5000))
def test_blocks_are_runs_of_equal_length_with_gaps_between(frames: int) -> None:
    found = blocks(frames)
    assert all(block.stop <= frames for block in found)
    if frames >= LENGTH:
        assert {block.stop - block.start for block in found} == {LENGTH}
        assert {later.start - block.stop for block, later in itertools.pairwise(found)} <= {GAP}
        assert frames - found[-1].stop < LENGTH + GAP, "no more would fit"


def test_a_sequence_shorter_than_a_block_is_one_and_no_frames_are_none() -> None:
    assert blocks(10) == [slice(0, 10)]
    assert blocks(0) == []
