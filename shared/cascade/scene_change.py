"""A change of the whole scene: the light, or a camera that was moved.

What walks through a picture changes a part of it, or fills a small zone with something else. When the light changes or
the camera is moved, most of the picture differs from what it was and still shows the same things, brighter, darker or
elsewhere: what was learned and remembered of it no longer holds. The background is a running mean and deviation of each
point (C. Stauffer and W. Grimson, "Adaptive background mixture models for real-time tracking", CVPR 1999, with one
component); likeness is normalised cross-correlation over small shifts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.frame import Signature

#: Share of the picture that must differ from the background. On fifteen real zones of two cameras walkers change at
#: most 0.2 of it, in a zone that one person fills more; darkness and light change 0.84 to 0.97, a camera moved by 8 %
#: of its picture 0.24 to 0.70.
_SHARE = 0.5
#: A point differs if it is further from the mean than this many grey levels and that many mean deviations.
_LEVELS, _DEVIATIONS = 6.0, 3.0
#: Least correlation with the background, shifted to fit best: after a change of light or a move it is 0.86 to 0.98, in
#: a zone that a person fills under 0.63.
_ALIKE = 0.75
#: Deviation, grey levels, of a picture that shows nothing: in the dark, or with the lens covered.
_FLAT = 3.0
#: The largest shift that is looked for, thumbnail pixels right and down.
_REACH = (4, 3)
#: Frames in a row that must show the new scene: a flash is no change of the light.
_FRAMES = 3
#: Frames after which a picture that is not like the background is the new one: the camera was turned away.
_REPLACED = 300
#: Frames that the old background must have been seen in: where the whole picture changes often, that is how the stream
#: is, and what was learned holds.
_SETTLED = 100
#: Frames after which the background has followed half of a lasting change.
_HALF_LIFE = 200.0
#: Most that one frame moves the mean by, in grey levels, before it is weighted: what passes by is not the background.
_LARGEST = np.float32(20.0)

Thumbnail = npt.NDArray[np.float32]


class SceneChangeDetector:
    """Tells when most of a camera's picture has changed for good."""

    def __init__(self) -> None:
        self._background: _Background | None = None
        self._candidate: _Background | None = None

    def update(self, signature: Signature) -> bool:
        """Take the next frame's signature in; whether the scene has changed with it, or in the frames just before."""
        picture = signature.thumbnail
        if self._background is None:
            self._background = _Background(picture)
        elif not self._background.differs(picture):
            self._background.add(picture)
            self._candidate = None
        elif self._candidate is None or self._candidate.differs(picture):
            self._candidate = _Background(picture)
        else:
            return self._consider(self._background, self._candidate, picture)
        return False

    def _consider(self, background: _Background, candidate: _Background, picture: Thumbnail) -> bool:
        candidate.add(picture)
        alike = candidate.frames == _FRAMES and (
            float(candidate.mean.std()) < _FLAT or correlation(background.mean, candidate.mean) >= _ALIKE
        )
        if not alike and candidate.frames < _REPLACED:
            return False
        self._background, self._candidate = candidate, None
        return background.frames >= _SETTLED


class _Background:
    """Running mean and deviation of each point of the thumbnail."""

    def __init__(self, picture: Thumbnail) -> None:
        self.mean, self._deviation = picture.copy(), np.zeros_like(picture)
        self._limit = self._deviation + np.float32(_LEVELS)
        self._few = int(_SHARE * picture.size)
        self.frames = 1

    def differs(self, picture: Thumbnail) -> bool:
        """Whether most of the picture is another one."""
        return int(np.count_nonzero(np.abs(picture - self.mean) > self._limit)) > self._few

    def add(self, picture: Thumbnail) -> None:
        """Count a picture in."""
        self.frames += 1
        weight = np.float32(max(1.0 - 0.5 ** (1.0 / _HALF_LIFE), 1.0 / self.frames))
        apart = picture - self.mean
        self._deviation += weight * (np.abs(apart) - self._deviation)
        self._limit = np.float32(_DEVIATIONS) * self._deviation + np.float32(_LEVELS)
        self.mean += weight * np.minimum(np.maximum(apart, -_LARGEST), _LARGEST)


def correlation(before: Thumbnail, after: Thumbnail) -> float:
    """Normalised cross-correlation of two thumbnails, at the shift where it is largest; -1 to 1."""
    height, width = before.shape
    best = -1.0
    for down in range(-_REACH[1], _REACH[1] + 1):
        for right in range(-_REACH[0], _REACH[0] + 1):
            first = before[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
            second = after[max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)]
            first, second = first - first.mean(), second - second.mean()
            scale = float(np.sqrt((first * first).sum() * (second * second).sum()))
            if scale > 0.0:
                best = max(best, float((first * second).sum()) / scale)
    return best
