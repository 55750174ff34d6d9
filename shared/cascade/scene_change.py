"""Scene changes: the light changes, or the camera is moved.

After a scene change, most of the picture differs from the background, and correlates with it: the same things are
brighter, darker or shifted. An object that passes changes a part of the picture, or does not correlate. Two cases need
no correlation: a picture without content, and a new picture that stays for ``_REPLACE_FRAMES``. A move that changes
less than half of the picture goes unnoticed. The background is a running mean and deviation of each point (C. Stauffer
and W. Grimson, "Adaptive background mixture models for real-time tracking", CVPR 1999, with one component).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.frame import Signature

#: Share of the points that must differ from the background. On fifteen real regions of two cameras, people change at
#: most 0.2 of a large region; a change of light changes 0.84 to 0.97, a move by 8 % of the picture 0.24 to 0.70.
_MIN_SHARE = 0.5
#: Distance from the mean at which a point differs: a constant, grey levels ...
_LEVELS = 6.0
#: ... plus this multiple of the point's mean absolute deviation.
_DEVIATIONS = 3.0
#: Least correlation with the background, at the best shift. After a change of light or a move of the camera the
#: correlation is 0.86 to 0.98; in a region that a person fills it is under 0.63.
_MIN_CORRELATION = 0.75
#: Standard deviation of a picture without content (dark, lens covered), grey levels.
_FLAT = 3.0
#: Largest shift, thumbnail pixels right and down.
_MAX_SHIFT = (4, 3)
#: Consecutive frames that must show the new scene; excludes flashes.
_CONFIRM_FRAMES = 3
#: Frames of a new picture after which it is a scene change without correlation: the camera was turned away.
_REPLACE_FRAMES = 300
#: Least frames of the old background. A stream whose whole picture changes more often has no scene changes.
_SETTLED_FRAMES = 100
#: Frames in which the background follows half of a lasting change; more for a change over ``_MAX_DIFFERENCE``.
_HALF_LIFE = 200.0
#: Largest difference that one frame contributes to the mean, grey levels; bounds the effect of passing objects.
_MAX_DIFFERENCE = np.float32(20.0)

Thumbnail = npt.NDArray[np.float32]


class SceneChangeDetector:
    """Detects that most of a camera's picture has changed for good."""

    def __init__(self) -> None:
        self._background: _Background | None = None
        self._new: _Background | None = None

    def update(self, signature: Signature) -> bool:
        """Add the next frame's signature. Returns whether a scene change is confirmed by this frame."""
        picture = signature.thumbnail
        if self._background is None:
            self._background = _Background(picture)
        elif not self._background.differs(picture):
            self._background.add(picture)
            self._new = None
        elif self._new is None or self._new.differs(picture):
            self._new = _Background(picture)
        else:
            return self._confirm(self._background, self._new, picture)
        return False

    def _confirm(self, background: _Background, new: _Background, picture: Thumbnail) -> bool:
        """Add a picture to the new background. Returns whether that is a scene change.

        It is none if the old background had not settled.
        """
        new.add(picture)
        confirmed = new.frames == _CONFIRM_FRAMES and (
            float(new.mean.std()) < _FLAT or correlation(background.mean, new.mean) >= _MIN_CORRELATION
        )
        if not confirmed and new.frames < _REPLACE_FRAMES:
            return False
        self._background, self._new = new, None
        return background.frames >= _SETTLED_FRAMES


class _Background:
    """Running mean and mean absolute deviation of each point of the thumbnail."""

    def __init__(self, picture: Thumbnail) -> None:
        self.mean, self._deviation = picture.copy(), np.zeros_like(picture)
        self._limit = self._deviation + np.float32(_LEVELS)
        self._max_differing = int(_MIN_SHARE * picture.size)
        self.frames = 1

    def differs(self, picture: Thumbnail) -> bool:
        """Whether most points of the picture differ."""
        return int(np.count_nonzero(np.abs(picture - self.mean) > self._limit)) > self._max_differing

    def add(self, picture: Thumbnail) -> None:
        """Update the running values."""
        self.frames += 1
        weight = np.float32(max(1.0 - 0.5 ** (1.0 / _HALF_LIFE), 1.0 / self.frames))
        difference = picture - self.mean
        self._deviation += weight * (np.abs(difference) - self._deviation)
        self._limit = np.float32(_DEVIATIONS) * self._deviation + np.float32(_LEVELS)
        self.mean += weight * np.minimum(np.maximum(difference, -_MAX_DIFFERENCE), _MAX_DIFFERENCE)


def correlation(before: Thumbnail, after: Thumbnail) -> float:
    """Largest normalised cross-correlation of two thumbnails over shifts up to ``_MAX_SHIFT``; -1 to 1."""
    height, width = before.shape
    best = -1.0
    for down in range(-_MAX_SHIFT[1], _MAX_SHIFT[1] + 1):
        for right in range(-_MAX_SHIFT[0], _MAX_SHIFT[0] + 1):
            first = before[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
            second = after[max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)]
            first, second = first - first.mean(), second - second.mean()
            scale = float(np.sqrt((first * first).sum() * (second * second).sum()))
            if scale > 0.0:
                best = max(best, float((first * second).sum()) / scale)
    return best
