"""Non-maximum suppression: of boxes of one object, the box of highest score."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import Boxes, iou

#: Boxes that are compared at once. Small blocks need more calls, large ones compare more pairs in vain.
_BLOCK = 64


def survivors(
    boxes: Boxes, labels: npt.NDArray[np.int64], overlap: float, most: int | None = None
) -> npt.NDArray[np.int64]:
    """Rows that no better row of the same label overlaps by more than ``overlap``, in order.

    This is greedy non-maximum suppression in blocks: a row counts only if it survives itself.

    Args:
        boxes: By decreasing score ``(n, 4)``.
        overlap: Largest intersection over union of two survivors of one label.
        most: Number of survivors after which to stop; None for all.
    """
    rows = np.zeros(0, np.int64)
    for first in range(0, len(boxes), _BLOCK):
        block = np.arange(first, min(first + _BLOCK, len(boxes)))
        if len(rows):
            block = block[~_overlapping(boxes, labels, rows, block, overlap).any(0)]
        # Row i removes row j > i. A row that is removed removes none, so repeat until nothing changes.
        removes = np.triu(_overlapping(boxes, labels, block, block, overlap), 1)
        alive = ~removes.any(0)
        while not np.array_equal(alive, now := ~removes[alive].any(0)):
            alive = now
        rows = np.concatenate([rows, block[alive]])
        if most is not None and len(rows) >= most:
            return rows[:most]
    return rows


def _overlapping(
    boxes: Boxes,
    labels: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    others: npt.NDArray[np.int64],
    overlap: float,
) -> npt.NDArray[np.bool_]:
    """Whether boxes of ``rows`` and ``others`` have one label and overlap by more than ``overlap`` ``(n, m)``."""
    found: npt.NDArray[np.bool_] = iou(boxes[rows], boxes[others]) > overlap
    found &= labels[rows, None] == labels[None, others]
    return found
