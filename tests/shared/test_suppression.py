"""Non-maximum suppression in blocks."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.detect.detections import iou
from cachenet.shared.inference.suppression import survivors


def greedy(boxes: np.ndarray, labels: np.ndarray, overlap: float) -> list[int]:
    """Row by row, as in the textbook."""
    pairs = iou(boxes, boxes)
    rows: list[int] = []
    for row in range(len(boxes)):
        if all(labels[row] != labels[other] or pairs[row, other] <= overlap for other in rows):
            rows.append(row)
    return rows


@given(st.integers(0, 2**32 - 1), st.integers(0, 200), st.integers(1, 3), st.sampled_from([0.0, 0.3, 0.6, 1.0]))
def test_blocks_give_what_greedy_suppression_gives(seed: int, count: int, labels: int, overlap: float) -> None:
    rng = np.random.default_rng(seed)
    # Boxes near a few places, so that chains of overlaps cross the blocks.
    corners = rng.choice(rng.random((6, 2)), count) + rng.normal(0, 0.03, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.05, 0.2, (count, 2))], 1).astype(np.float32)
    numbers = rng.integers(0, labels, count)
    expected = greedy(boxes, numbers, overlap)
    assert survivors(boxes, numbers, overlap, count + 1).tolist() == expected
    assert survivors(boxes, numbers, overlap, 5).tolist() == expected[:5]


def test_boxes_of_other_labels_survive() -> None:
    boxes = np.tile(np.float32([0.1, 0.1, 0.4, 0.4]), (4, 1))
    assert survivors(boxes, np.array([0, 1, 0, 1]), 0.6, 9).tolist() == [0, 1]
