"""Synthetic scenes: objects that move in straight lines, a full model that sees them, and a detector with errors."""

from __future__ import annotations

import numpy as np

from cachenet.shared.cascade.detect.detections import Boxes, Detections, checked
from cachenet.shared.cascade.detect.scene_replay import SceneTrace
from cachenet.shared.cascade.detect.types import Flow, Motion, SceneFrame
from cachenet.shared.cascade.frame import Signature

#: Cells of the grid of changes.
GRID = (12, 16)


def boxes(*corners: tuple[float, float, float, float]) -> Detections:
    """Detections of label 0 with score 0.9."""
    return checked(np.array(corners).reshape(-1, 4), [0] * len(corners), [0.9] * len(corners), classes=2)


def frame(index: int, flow: Flow | None = None, moved: bool = True, level: float = 100.0) -> SceneFrame:
    """A frame of a grey picture."""
    signature = Signature(np.full((12, 16), level, np.float32), np.full((24, 32), level, np.float32))
    return SceneFrame(index, index, signature, np.full(GRID, moved), flow if index else None)


def shifted(dx: float, dy: float = 0.0, consistency: float = 1.0) -> Flow:
    """A flow that moves all boxes alike."""

    def flow(tracked: Boxes) -> Motion:
        n = len(tracked)
        return Motion(np.full((n, 2), (dx, dy), np.float32), np.full(n, consistency, np.float32))

    return flow


def walkers(frames: int, seed: int = 0, count: int = 4, found: float = 0.8, false: float = 0.3) -> SceneTrace:
    """A scene of walkers with a detector that misses some and finds others that are not there.

    Now and then a walker goes and another comes.

    Args:
        found: Share of the walkers that the detector finds in a frame.
        false: False detections a frame.
    """
    rng = np.random.default_rng(seed)
    at = rng.uniform(0.1, 0.9, (count, 2))
    speed = rng.uniform(-0.01, 0.01, (count, 2))
    size = np.array([0.06, 0.14])
    all_frames, full, base = [], [], []
    for index in range(frames):
        corners = np.concatenate([at - size / 2, at + size / 2], 1)
        full.append(checked(corners, [0] * count, [0.8] * count, classes=1))
        found_ones = rng.random(count) < found
        noisy = corners[found_ones] + rng.normal(0.0, 0.004, (int(found_ones.sum()), 4))
        wrong = rng.uniform(0.0, 0.85, (rng.poisson(false), 2))
        both = np.concatenate([noisy, np.concatenate([wrong, wrong + size], 1)])
        scores = np.r_[rng.uniform(0.5, 0.95, len(noisy)), rng.uniform(0.2, 0.7, len(wrong))]
        base.append(checked(both, [0] * len(both), scores, classes=1))
        all_frames.append(frame(index, _flow_of(corners, speed)))
        at = at + speed
        new = rng.random(count) < 0.02
        at[new] = rng.uniform(0.1, 0.9, (int(new.sum()), 2))
        speed = np.where((at < 0.1) | (at > 0.9), -speed, speed)
    return SceneTrace(all_frames, full, base)


def _flow_of(now: np.ndarray, speed: np.ndarray) -> Flow:
    """The motion of each walker, for the boxes near it; no motion elsewhere."""
    middle = (now[:, :2] + now[:, 2:]) / 2 - speed

    def flow(tracked: Boxes) -> Motion:
        centres = (tracked[:, :2] + tracked[:, 2:]) / 2
        distance = np.abs(centres[:, None] - middle[None]).max(2)
        nearest = distance.argmin(1)
        near = distance[np.arange(len(tracked)), nearest] < 0.08
        shifts = np.where(near[:, None], speed[nearest], 0.0)
        return Motion(shifts.astype(np.float32), np.ones(len(tracked), np.float32))

    return flow


def same(one: Detections, other: Detections) -> bool:
    """Whether two detections are equal."""
    return (
        np.array_equal(one.boxes, other.boxes)
        and np.array_equal(one.labels, other.labels)
        and np.array_equal(one.scores, other.scores)
    )
