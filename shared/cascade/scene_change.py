"""A change of the whole scene: the light, or a camera that was moved.

What walks through a picture changes a part of it. When the light changes or the camera is moved, most of the picture
differs from what it was, and what was learned and remembered of it no longer holds. The background is a running mean
and deviation of each block (C. Stauffer and W. Grimson, "Adaptive background mixture models for real-time tracking",
CVPR 1999, with one component).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shared.cascade.frame import Signature

#: Share of the blocks that must differ from the background. On eleven real zones of two cameras walkers change at most
#: 0.2 of them, in a zone that one person fills more; darkness and light change 0.84 to 0.97, a camera moved by 8 % of
#: its picture 0.24 to 0.70.
_SHARE = 0.5
#: A block differs if it is further from the mean than this many grey levels and that many mean deviations.
_LEVELS, _DEVIATIONS = 6.0, 3.0
#: Frames in a row: a flash is no change of the light.
_FRAMES = 3
#: Frames that the background is learned from before a frame can differ from it, at first and after each change. Where
#: one frame is another picture than the next, as in a shuffled set of images, it learns that and reports no change.
_LEARNED = 50
#: Frames after which the background has followed half of a lasting change.
_HALF_LIFE = 200.0
#: Most that one frame moves the mean by, in grey levels, before it is weighted: what passes by is not the background.
_LARGEST = 20.0


class SceneChangeDetector:
    """Tells when most of a camera's picture has changed for good."""

    def __init__(self) -> None:
        self._mean: npt.NDArray[np.float32] | None = None
        self._deviation: npt.NDArray[np.float32] = np.zeros(0, np.float32)
        self._seen = self._differing = 0

    def update(self, signature: Signature) -> bool:
        """Take the next frame's signature in; whether the scene has changed with it, or in the frames just before."""
        blocks = signature.blocks.ravel()
        if self._mean is None or self._differing == _FRAMES:
            self._mean, self._deviation = blocks.copy(), np.zeros_like(blocks)
            self._seen, self._differing = 1, 0
            return False
        apart = np.abs(blocks - self._mean)
        differs = self._seen >= _LEARNED and float((apart > _DEVIATIONS * self._deviation + _LEVELS).mean()) > _SHARE
        self._differing = self._differing + 1 if differs else 0
        if not differs:
            self._seen += 1
            weight = max(1.0 - 0.5 ** (1.0 / _HALF_LIFE), 1.0 / self._seen)
            self._mean += weight * np.clip(blocks - self._mean, -_LARGEST, _LARGEST)
            self._deviation += weight * (apart - self._deviation)
        return self._differing == _FRAMES
