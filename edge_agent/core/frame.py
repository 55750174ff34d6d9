"""A frame as the core sees it, and its signature: what tells whether two pictures are nearly the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from shared.image import Picture

#: Mean brightness of each block of the picture, ``(12, 16)`` float32 in 0..255.
Signature = npt.NDArray[np.float32]

BLOCKS = (16, 12)
#: The picture is sampled down to this many pixels first, which keeps the cost constant whatever the resolution.
_SAMPLED = (160, 120)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. ``view`` is whatever the models score: the core hands it on without looking inside, so that a
    simulator may put recorded scores there. ``signature`` None switches all that depends on it off."""

    index: int
    view: Any
    signature: Signature | None = None


def sign(picture: Picture) -> Signature:
    """The signature of a picture of any size.

    Block means make sensor noise and compression vanish (noise of 4 grey levels leaves 0.4) and still show a change
    confined to one block.
    """
    sampled = cv2.cvtColor(cv2.resize(picture, _SAMPLED, interpolation=cv2.INTER_NEAREST), cv2.COLOR_BGR2GRAY)
    return cv2.resize(sampled, BLOCKS, interpolation=cv2.INTER_AREA).astype(np.float32)


def distance(a: Signature, b: Signature) -> float:
    """The largest change of any one block, grey levels: a person in a corner counts as much as a new scene."""
    return float(np.abs(a - b).max())


def change(a: Signature, b: Signature) -> float:
    """The mean change over all blocks, grey levels."""
    return float(np.abs(a - b).mean())
