"""The benchmark of a detector's cascade: the scenes that it measures."""

from __future__ import annotations

import numpy as np

from benchmarks.scene_cost import Squares, measure


def test_the_squares_are_where_their_boxes_are() -> None:
    squares = Squares(6, 2.0)
    (first, boxes), (later, moved) = squares.frame(0), squares.frame(9)
    assert len(boxes) == len(moved) == 6
    assert (np.abs(boxes.boxes - moved.boxes).max(1) > 0.01).all()
    changed = np.abs(first.astype(int) - later).max(2) > 0
    for left, top, right, bottom in (moved.boxes * np.array([768, 576] * 2)).round().astype(int).tolist():
        assert changed[top:bottom, left:right].mean() > 0.5


def test_every_part_takes_time() -> None:
    found = measure(2, 2.0, 30)
    assert set(found) == {f"{part}_{what}" for part in ("motion", "cascade", "all") for what in ("median", "p95")}
    assert all(value > 0 for value in found.values())
