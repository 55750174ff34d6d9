"""TEMPORARY copy of the sketch's flow, until edge_agent.flow is merged."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import Boxes
from cachenet.shared.cascade.detect.types import Motion

Grey = npt.NDArray[np.uint8]
_COLUMNS, _ROWS = np.linspace(0.25, 0.75, 3), np.linspace(0.15, 0.7, 5)


def grey_picture(picture: Grey) -> Grey:
    high, wide = picture.shape[:2]
    small = cv2.resize(picture, (384, max(1, round(384 * high / wide))), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)  # type: ignore[return-value]


def moved_cells(before: Grey | None, now: Grey) -> npt.NDArray[np.bool_]:
    if before is None:
        return np.ones((12, 16), np.bool_)
    size = (now.shape[1] // 4, now.shape[0] // 4)
    small = [cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in (before, now)]
    changed = (cv2.absdiff(*small) > 12).astype(np.float32)
    return cv2.resize(changed, (16, 12), interpolation=cv2.INTER_AREA) > 0.02


def lucas_kanade(before: Grey, now: Grey, boxes: Boxes) -> Motion:
    n = len(boxes)
    if not n:
        return Motion(np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    size = np.array([now.shape[1], now.shape[0]], np.float32)
    low, sides = boxes[:, None, :2] * size, (boxes[:, 2:] - boxes[:, :2])[:, None] * size
    grid = np.array([(x, y) for y in _ROWS for x in _COLUMNS], np.float32)
    points = (low + grid * sides).reshape(-1, 1, 2).astype(np.float32)
    to, found, _ = cv2.calcOpticalFlowPyrLK(before, now, points, None, winSize=(11, 11), maxLevel=2)  # type: ignore
    back, again, _ = cv2.calcOpticalFlowPyrLK(now, before, to, None, winSize=(11, 11), maxLevel=2)  # type: ignore
    good = (found[:, 0] > 0) & (again[:, 0] > 0) & (np.linalg.norm((back - points)[:, 0], axis=1) < 1)
    good, steps = good.reshape(n, -1), ((to - points)[:, 0] / size).reshape(n, -1, 2)
    shifts = np.zeros((n, 2), np.float32)
    for row in range(n):
        if good[row].sum() >= 4:
            shifts[row] = np.median(steps[row][good[row]], 0)
    return Motion(shifts, good.mean(1).astype(np.float32))
