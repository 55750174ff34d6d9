"""A frame as the core sees it, and its signature: what tells whether two pictures are nearly the same."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from shared.image import Picture

BLOCKS = (16, 12)
_THUMBNAIL = (32, 24)
#: A picture is sampled at about so many points across and down, which keeps the cost constant whatever the resolution.
_SAMPLED = (160, 120)
#: The largest shift that is looked for, thumbnail pixels right and down; the regions that are compared after it.
_REACH = (4, 3)
_REGIONS = (4, 3)
#: A change that is not worth looking for a shift, grey levels: it is nothing new (shared.filter) with or without one.
_NOISE = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """What a picture looks like from afar, in levels of green 0..255. ``blocks`` ``(12, 16)`` float32: mean brightness,
    in which sensor noise and compression vanish; ``thumbnail`` ``(24, 32)`` float32."""

    blocks: npt.NDArray[np.float32]
    thumbnail: npt.NDArray[np.float32]

    def change(self, before: Signature) -> float:
        """How much the picture differs from ``before`` once it is shifted to fit best, grey levels (root mean square,
        of the region that changed most): an object that moves is the same object, and one that enters in a corner is
        not averaged away."""
        (right, down), (width, height) = _REACH, _THUMBNAIL
        unmoved = _largest(before.thumbnail - self.thumbnail)
        if unmoved <= _NOISE:  # most frames of most cameras: nothing to look for
            return unmoved
        core = self.thumbnail[down : height - down, right : width - right]
        fits = cv2.matchTemplate(before.thumbnail, core, cv2.TM_SQDIFF)
        row, column = divmod(int(fits.argmin()), fits.shape[1])
        dy, dx = row - down, column - right
        if fits[row, column] >= 0.9 * fits[down, right]:  # nothing moved: look at all of it, to the edges
            return unmoved
        there = before.thumbnail[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
        here = self.thumbnail[max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)]
        return _largest(there - here)


def _largest(difference: npt.NDArray[np.float32]) -> float:
    """The root mean square of the region where it is largest."""
    regions = cv2.resize(difference * difference, _REGIONS, interpolation=cv2.INTER_AREA)
    return math.sqrt(max(regions.ravel().tolist()))


class Frame(msgspec.Struct, frozen=True, eq=False):
    """One frame. ``view`` is whatever the models score: the core hands it on without looking inside, so that a
    simulator may put recorded scores there. ``signature`` None switches all that depends on it off."""

    index: int
    view: Any
    signature: Signature | None = None


def sign(picture: Picture) -> Signature:
    """The signature of a picture of any size."""
    across, down = (max(1, size // points) for size, points in zip(picture.shape[1::-1], _SAMPLED, strict=True))
    # Green is most of brightness, and a third of the bytes.
    sampled = np.ascontiguousarray(picture[down // 2 :: down, across // 2 :: across, 1])
    thumbnail = cv2.resize(sampled, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
    blocks = cv2.resize(thumbnail, BLOCKS, interpolation=cv2.INTER_AREA)
    return Signature(blocks, thumbnail)  # type: ignore[arg-type]
