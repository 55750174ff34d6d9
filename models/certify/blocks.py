"""Blocks of consecutive frames: the units that certificates count.

Neighbouring frames are alike, and what goes wrong goes wrong for some frames together. A block's mean is one
observation, and frames between two blocks are left out, so that blocks are as good as independent.
"""

from __future__ import annotations

#: Frames of a block, and frames that are left out between two: two seconds and one at 30 frames a second.
LENGTH, GAP = 60, 30
#: Blocks under which nothing is certified.
FEWEST = 20


def blocks(frames: int) -> list[slice]:
    """The blocks of a sequence of so many frames, in order. A sequence that is shorter than one is a block itself."""
    if 0 < frames < LENGTH:
        return [slice(0, frames)]
    return [slice(first, first + LENGTH) for first in range(0, frames - LENGTH + 1, LENGTH + GAP)]


def frames_of(count: int) -> int:
    """Frames that so many blocks take."""
    return count * (LENGTH + GAP)
