"""Blocks of consecutive frames: the samples that certificates count.

Errors of neighbouring frames are correlated. The mean over a block is one sample, and a gap after each block makes the
samples nearly independent.
"""

from __future__ import annotations

#: Frames in a block: two seconds at 30 frames a second.
LENGTH = 60
#: Frames left out between two blocks: one second at 30 frames a second.
GAP = 30
#: Blocks without which nothing is certified.
FEWEST = 20


def blocks(frames: int) -> list[slice]:
    """The blocks of a sequence of ``frames`` frames, in order; a sequence shorter than a block is one block."""
    if 0 < frames < LENGTH:
        return [slice(0, frames)]
    return [slice(first, first + LENGTH) for first in range(0, frames - LENGTH + 1, LENGTH + GAP)]


def frames_of(count: int) -> int:
    """Frames that ``count`` blocks take, with their gaps."""
    return count * (LENGTH + GAP)
