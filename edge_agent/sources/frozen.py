"""Detection of a frozen camera, which repeats one picture."""

from __future__ import annotations

import logging
from typing import Literal, get_args

import numpy as np

from cachenet.shared.inference.image import Picture

log = logging.getLogger(__name__)

#: Reaction to a frozen camera: ``say``: log a warning; ``lost``: count it as lost and open it again.
OnFrozen = Literal["say", "lost"]
ON_FROZEN: tuple[OnFrozen, ...] = get_args(OnFrozen)

#: Time with identical pictures after which a camera counts as frozen, seconds. Noise of a working sensor changes some
#: pixel of every picture.
FROZEN_S = 10.0
#: Step in rows and columns of the pixels that are compared first. They distinguish nearly all pictures.
_STEP = 16


class Stillness:
    """Time for which a camera's pictures have been identical. A comparison of different pictures ends after a few
    hundred pixels."""

    def __init__(self) -> None:
        self._last: Picture | None = None
        self._since = 0.0
        self._latest = 0.0

    def add(self, picture: Picture, now: float) -> None:
        """Add a picture received at ``now``, seconds. ``picture`` is stored and must not be modified."""
        self._latest = now
        if self._last is None or not _same(self._last, picture):
            self._last, self._since = picture, now

    @property
    def seconds(self) -> float:
        """Seconds for which the latest picture has been repeated; 0 for a new one."""
        return self._latest - self._since

    @property
    def frozen(self) -> bool:
        return self.seconds >= FROZEN_S


class FrozenAlarm:
    """Logs when a camera freezes and when its picture changes again. ``error``: the message while it is frozen."""

    def __init__(self) -> None:
        self.error = ""
        self._stillness = Stillness()

    def add(self, picture: Picture, now: float, name: str) -> None:
        """Add each picture of the camera ``name``, received at ``now``, seconds."""
        frozen_s = self._stillness.seconds
        self._stillness.add(picture, now)
        if self._stillness.frozen and not self.error:
            self.error = f"the same picture for {FROZEN_S:.0f} s; is the camera frozen?"
            log.warning("%s: %s", name, self.error)
        elif self.error and not self._stillness.frozen:
            self.error = ""
            log.warning("%s: its picture changes again, after %.0f s", name, frozen_s)


def _same(one: Picture, other: Picture) -> bool:
    if one.shape != other.shape or not np.array_equal(one[::_STEP, ::_STEP], other[::_STEP, ::_STEP]):
        return False
    return np.array_equal(one, other)
