"""A frame as the decision core sees it, and its signature for comparing pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """Two small versions of a picture's green channel, grey levels 0 to 255.

    Attributes:
        blocks: Mean brightness of 16x12 blocks ``(12, 16)`` float32; averages out sensor noise and compression.
        thumbnail: The picture at 32x24 pixels ``(24, 32)`` float32.
    """

    blocks: npt.NDArray[np.float32]
    thumbnail: npt.NDArray[np.float32]


class Frame(msgspec.Struct, frozen=True, eq=False):
    """One frame.

    Attributes:
        index: Number of the frame, increasing.
        view: Input of the models' ``score`` functions. The core passes it on unread; a replay uses recorded scores.
    """

    index: int
    view: Any
    signature: Signature
