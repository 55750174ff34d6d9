"""Zones: named polygons in a camera's picture, for counts of objects and for the crops of a classifier."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.shared.inference.image import Region

#: Most zones of a camera. With a classifier each is one more cascade in the loop of the camera.
MAX_ZONES = 16
#: Most corners of a zone: more than a hand draws, few enough for the check of every pair of edges.
MAX_CORNERS = 64
#: Least area of a zone, as a share of the picture: 30 pixels of a picture of 640 x 480.
MIN_AREA = 1e-4
#: Names of cameras and zones. They are parts of topics and of file names.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

#: Horizontal and vertical position, as shares of the picture's width and height.
Point = tuple[float, float]


class Zone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a camera's picture: a ``[[camera.zone]]`` table, or a ``[[zone]]`` table of the only camera.

    Example:
        >>> gate = Zone("gate", ((0.1, 0.2), (0.5, 0.2), (0.5, 0.8), (0.1, 0.8)))
        >>> gate.region
        (0.1, 0.2, 0.4, 0.6000000000000001)
        >>> gate.contains([(0.3, 0.5), (0.7, 0.5)]).tolist()
        [True, False]

    Attributes:
        name: Unique name: letters, digits, ``.``, ``_`` and ``-``, 64 at most.
        polygon: Corners in order.
    """

    name: str
    polygon: tuple[Point, ...]

    @property
    def region(self) -> Region:
        """The bounding box of the zone."""
        (left, top), (right, bottom) = np.min(self.polygon, 0).tolist(), np.max(self.polygon, 0).tolist()
        return left, top, min(right - left, 1.0 - left), min(bottom - top, 1.0 - top)

    def contains(self, points: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether points ``(n, 2)`` lie in the zone: a ray to the right crosses its edges an odd number of times."""
        x, y = np.asarray(points, np.float64).reshape(-1, 2).T[:, :, None]  # (n, 1)
        left, top, bottom, slope = _edges(self.polygon)
        crosses = (top > y) != (bottom > y)  # (n, corners)
        inside: npt.NDArray[np.bool_] = (crosses & (x < left + (y - top) * slope)).sum(1) % 2 == 1
        return inside

    def check(self) -> None:
        """Raise ``ValueError`` for a zone that cannot be used; the message says why."""
        if not NAME.fullmatch(self.name):
            raise ValueError(f"zone {self.name[:80]!r}: a name is letters, digits, '.', '_', '-', 64 at most")
        points = np.array(self.polygon, np.float64).reshape(-1, 2)
        if not 3 <= len(points) <= MAX_CORNERS:
            raise ValueError(f"zone {self.name}: a polygon has 3 to {MAX_CORNERS} corners, this one {len(points)}")
        if not ((points >= 0) & (points <= 1)).all():  # false for NaN
            raise ValueError(f"zone {self.name}: a corner is [x, y] in shares of the picture, each 0 to 1")
        if _crosses_itself(points):
            raise ValueError(
                f"zone {self.name}: its edges cross or touch; list each corner once, in order around the zone"
            )
        if _area(points) < MIN_AREA:
            raise ValueError(f"zone {self.name}: its polygon has hardly any area")


@lru_cache(maxsize=256)
def _edges(polygon: tuple[Point, ...]) -> tuple[npt.NDArray[np.float64], ...]:
    """For each edge from its first corner: horizontal and vertical position, vertical position of the other corner, and
    horizontal by vertical distance, each ``(corners,)``."""
    start = np.array(polygon)
    end = np.roll(start, -1, 0)
    rise = end[:, 1] - start[:, 1]
    return start[:, 0], start[:, 1], end[:, 1], (end[:, 0] - start[:, 0]) / np.where(rise == 0, 1.0, rise)


def check_zones(zones: Sequence[Zone]) -> None:
    """Raise ``ValueError`` for zones of one camera that cannot be used; the message says why."""
    if len(zones) > MAX_ZONES:
        raise ValueError(f"a camera has {MAX_ZONES} zones at most, this one has {len(zones)}")
    names = [zone.name for zone in zones]
    for zone in zones:
        zone.check()
        if names.count(zone.name) > 1:
            raise ValueError(f"two zones of one camera are called {zone.name}; names must be unique")


def _area(points: npt.NDArray[np.float64]) -> float:
    x, y = points.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _crosses_itself(points: npt.NDArray[np.float64]) -> bool:
    """Whether two edges without a common corner meet."""
    n = len(points)
    ends = np.roll(points, -1, 0)
    # Side of each edge's line on which each corner lies, 0 on the line ``(edges, corners)``.
    edge, other = (ends - points)[:, None], points[None] - points[:, None]
    side = np.sign(edge[..., 0] * other[..., 1] - edge[..., 1] * other[..., 0])
    first, second = side, np.roll(side, -1, 1)  # sides of both ends of the other edge
    low, high = np.minimum(points, ends), np.maximum(points, ends)
    boxes_meet = ((low[:, None] <= high[None]) & (low[None] <= high[:, None])).all(2)
    meet = (first * second <= 0) & (first * second <= 0).T & boxes_meet
    row, column = np.indices((n, n))
    apart = (row - column) % n
    return bool(meet[(apart > 1) & (apart < n - 1)].any())
