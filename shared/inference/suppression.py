"""Non-maximum suppression: of boxes of one object, the box of highest score."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import Boxes

#: Boxes that are compared at once. Small blocks need more calls, large ones compare more pairs in vain.
_BLOCK = 64


def survivors(boxes: Boxes, labels: npt.NDArray[np.int64], overlap: float, most: int) -> npt.NDArray[np.int64]:
    """The first ``most`` rows that no better row of the same label overlaps by more than ``overlap``, in order.

    This is greedy non-maximum suppression, a block of rows at a time: a row removes others only if it survives itself.

    Args:
        boxes: By decreasing score, finite and with an area ``(n, 4)``.
        overlap: Largest intersection over union of two survivors of one label.
    """
    # Left, top, right, bottom, and a label and the area in proportion: one pair is a column of each.
    columns = np.empty((6, len(boxes)), np.float32)
    columns[:4], columns[4] = boxes.T, labels
    columns[5] = (columns[2] - columns[0]) * (columns[3] - columns[1]) * (overlap / (1 + overlap))
    alive = columns[:, :0]
    rows: list[npt.NDArray[np.int64]] = []
    for first in range(0, len(boxes), _BLOCK):
        block = columns[:, first : first + _BLOCK]
        index = np.flatnonzero(~_overlapping(alive, block).any(0)) if first else np.arange(block.shape[1])
        block = block[:, index]
        # Row i may remove row j > i. A row that is removed removes none, so repeat until nothing changes.
        removes = np.triu(_overlapping(block, block), 1)
        own = ~removes.any(0)
        while not np.array_equal(own, again := ~removes[own].any(0)):
            own = again
        rows.append(index[own] + first)
        alive = np.concatenate([alive, block[:, own]], 1)
        if alive.shape[1] >= most:
            break
    return np.concatenate(rows)[:most] if rows else np.zeros(0, np.int64)


def _overlapping(some: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Whether boxes have one label and overlap by too much ``(n, m)``.

    Intersection over union exceeds t where the intersection exceeds t / (1 + t) of the sum of both areas.
    """
    width = np.minimum(some[2, :, None], others[2])
    width -= np.maximum(some[0, :, None], others[0])
    height = np.minimum(some[3, :, None], others[3])
    height -= np.maximum(some[1, :, None], others[1])
    np.maximum(width, 0, out=width)  # two negative sides have no positive product
    width *= height
    found: npt.NDArray[np.bool_] = width > some[5, :, None] + others[5]
    found &= some[4, :, None] == others[4]
    return found
