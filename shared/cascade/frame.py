"""A frame as the core sees it, and its signature: what tells whether two pictures are nearly the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """What a picture looks like from afar, in grey levels of green, 0..255.

    Attributes:
        blocks: Mean brightness of 16x12 blocks, in which sensor noise and compression vanish ``(12, 16)`` float32.
        thumbnail: The picture at 32x24 pixels ``(24, 32)`` float32.
    """

    blocks: npt.NDArray[np.float32]
    thumbnail: npt.NDArray[np.float32]


class Frame(msgspec.Struct, frozen=True, eq=False):
    """One frame.

    Attributes:
        index: Number of the frame, rising.
        view: Whatever the models score. The core hands it on without looking inside, so that a simulator may put
            recorded scores there.
        signature: Of the picture.
    """

    index: int
    view: Any
    signature: Signature
