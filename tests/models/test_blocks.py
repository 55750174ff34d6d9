"""Blocks of consecutive frames, the samples of certificates."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cachenet.models.certify.blocks import GAP, LENGTH, blocks


@given(st.integers(0, 5000))
def test_blocks_have_equal_length_and_gaps_between_them(frames: int) -> None:
    found = blocks(frames)
    assert all(block.stop <= frames for block in found)
    if frames >= LENGTH:
        assert {block.stop - block.start for block in found} == {LENGTH}
        assert {later.start - block.stop for block, later in itertools.pairwise(found)} <= {GAP}
        assert frames - found[-1].stop < LENGTH + GAP, "another block would not fit"


def test_a_short_sequence_is_one_block_and_an_empty_one_has_none() -> None:
    assert blocks(10) == [slice(0, 10)]
    assert blocks(0) == []
