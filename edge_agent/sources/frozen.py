"""A frozen camera: one that goes on giving pictures, and all of them are the same."""

from __future__ import annotations

import logging
from typing import Literal, get_args

import numpy as np

from cachenet.shared.inference.image import Picture

log = logging.getLogger(__name__)

#: What to do about a frozen camera: ``say`` so, or count it as ``lost`` and open it again.
OnFrozen = Literal["say", "lost"]
ON_FROZEN: tuple[OnFrozen, ...] = get_args(OnFrozen)

#: How long a camera gives the same bytes before it counts as frozen, in seconds. Noise changes some pixel of every
#: picture of a sensor that works.
FROZEN_S = 10.0
#: Every so many pixels of every so many rows are compared first: enough to tell two pictures apart but for a rare one.
_STEP = 16


class Stillness:
    """Since when a camera's pictures have been the same, byte for byte. Of a camera that works the comparison ends at
    a few hundred pixels. No clock of its own: times are given, in seconds."""

    def __init__(self) -> None:
        self._last: Picture | None = None
        self._since = 0.0
        self._seen = 0.0

    def see(self, picture: Picture, now: float) -> None:
        """Take a picture that came at ``now``. Keeps ``picture``, which must not be written to."""
        self._seen = now
        if self._last is None or not _same(self._last, picture):
            self._last, self._since = picture, now

    @property
    def seconds(self) -> float:
        """How long the same picture has come, up to the latest one; 0 if the latest one was new."""
        return self._seen - self._since

    @property
    def frozen(self) -> bool:
        return self.seconds >= FROZEN_S


class FrozenAlarm:
    """Says when a camera freezes, and when its picture changes again. ``trouble``: what is wrong, in words; empty while
    the picture changes."""

    def __init__(self) -> None:
        self.error = ""
        self._stillness = Stillness()

    def see(self, picture: Picture, now: float, name: str) -> None:
        """Take each picture that the camera gives, and when it came, in seconds. ``name``: of the camera."""
        still_s = self._stillness.seconds
        self._stillness.see(picture, now)
        if self._stillness.frozen and not self.error:
            self.error = f"the same picture for {FROZEN_S:.0f} s; is the camera frozen?"
            log.warning("%s: %s", name, self.error)
        elif self.error and not self._stillness.frozen:
            self.error = ""
            log.warning("%s: its picture changes again, after %.0f s", name, still_s)


def _same(one: Picture, other: Picture) -> bool:
    if one.shape != other.shape or not np.array_equal(one[::_STEP, ::_STEP], other[::_STEP, ::_STEP]):
        return False
    return np.array_equal(one, other)
