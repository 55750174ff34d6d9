"""Motion between consecutive pictures of a stream: which cells have changed, and optical flow inside boxes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import Boxes
from cachenet.shared.cascade.detect.types import Flow, Motion
from cachenet.shared.inference.image import Picture

#: Rows and columns of the grid of cells.
CELLS = (24, 32)
#: Longest side of the grey picture, pixels: flow on vtest.avi (768 x 576) is as good as at the full size.
_SIDE = 384
#: Points in a box, across and down.
_POINTS = (3, 5)
#: Margins without points on the left and right, at the top and at the bottom, as shares of the box. A person's legs
#: move otherwise than the person.
_MARGINS = (0.25, 0.15, 0.3)
#: Lucas-Kanade window, pixels; 9 and 15 are as good on vtest.avi.
_WINDOW = (11, 11)
#: Pyramid levels above the picture: displacements of up to some 20 pixels.
_LEVELS = 2
#: Iterations and least step of Lucas-Kanade, pixels; 30 and 0.01, OpenCV's own, take twice the time and gain nothing.
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.03)
#: Largest distance between a point and its displacement forward and backward, pixels.
_MAX_RETURN = 1.0
#: Least confirmed points of a displacement.
_MIN_CONFIRMED = 4
#: Least difference of a pixel that has changed, grey levels: above the artefacts of video compression.
_PIXEL_CHANGE = 12.0
#: Factor on the noise, the mean difference of unchanged pixels, in that difference; Gaussian noise exceeds five times
#: its mean difference in one pixel of 15,000.
_NOISE_FACTOR = 5.0
#: Largest noise, grey levels. The picture of a moving camera differs more, and that is no noise.
_MAX_NOISE = 3.0
#: Least changed pixels of a changed cell.
_MIN_PIXELS = 3
#: Least difference of the mean of a changed cell, grey levels, beside the noise.
_CELL_CHANGE = 3.0


class MotionDetector:
    """Motion in one stream of pictures.

    Example:
        >>> motion = MotionDetector()
        >>> _, none = motion.update(np.zeros((48, 64, 3), np.uint8))
        >>> moved, flow = motion.update(np.zeros((48, 64, 3), np.uint8))
        >>> none, bool(moved.any()), flow(np.array([[0.1, 0.1, 0.5, 0.5]], np.float32)).consistency.tolist()
        (None, False, [1.0])
    """

    def __init__(self) -> None:
        self._grey: npt.NDArray[np.uint8] | None = None
        self._means = np.zeros(CELLS, np.float32)

    def update(self, picture: Picture) -> tuple[npt.NDArray[np.bool_], Flow | None]:
        """Take the next picture of the stream.

        Args:
            picture: ``(height, width, 3)`` uint8 BGR; it is not kept.

        Returns:
            Whether each cell has changed since the picture before ``CELLS``, all true for the first picture; and the
            flow since then, None for the first picture. The flow holds two grey pictures, 110 kB each at most; each is
            shared with the flow of the picture before or after.
        """
        before, means = self._grey, self._means
        self._grey = grey = _grey(picture)
        self._means = _cells(grey)
        if before is None:
            return np.ones(CELLS, np.bool_), None
        if before.shape != grey.shape:  # the source has another resolution now
            return np.ones(CELLS, np.bool_), _unknown
        moved = _moved(before, grey, self._means - means)
        return moved, _LucasKanade(before, grey, moved)


def _grey(picture: Picture) -> npt.NDArray[np.uint8]:
    """The green channel, which approximates brightness, with at most ``_SIDE`` pixels on its longest side."""
    height, width = picture.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Averaging over all pixels takes five times as long, and the flow is no better.
    small = picture if scale == 1.0 else cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
    return cv2.extractChannel(small, 1)  # type: ignore[return-value]


def _cells(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Mean of the values in each cell ``CELLS``."""
    return cv2.resize(values.astype(np.float32), CELLS[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _moved(
    before: npt.NDArray[np.uint8], grey: npt.NDArray[np.uint8], change: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Whether each cell has changed ``CELLS``; ``change``: change of each cell's mean."""
    exposure = float(np.median(change))  # a change of all means alike is no motion
    difference = cv2.absdiff(cv2.add(before, exposure), grey)  # type: ignore[call-overload]
    noise = min(float(np.median(_cells(difference))), _MAX_NOISE)  # type: ignore[arg-type]
    _, changed = cv2.threshold(difference, _PIXEL_CHANGE + _NOISE_FACTOR * noise, 1.0, cv2.THRESH_BINARY)
    pixels = _cells(changed) * (grey.size / change.size)  # type: ignore[arg-type]
    moved: npt.NDArray[np.bool_] = np.abs(change - exposure) > _CELL_CHANGE + noise
    return moved | (pixels > _MIN_PIXELS - 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class _LucasKanade:
    """Sparse pyramidal Lucas-Kanade flow from one grey picture to the next, forward and backward.

    J.-Y. Bouguet, "Pyramidal implementation of the Lucas Kanade feature tracker", Intel 2000; the check by the way back
    is from Z. Kalal and others, "Forward-backward error", ICPR 2010.
    """

    before: npt.NDArray[np.uint8]
    grey: npt.NDArray[np.uint8]
    moved: npt.NDArray[np.bool_]

    def __call__(self, boxes: Boxes) -> Motion:
        """The motion of the content of ``boxes``: none, and certain, where no cell of a box has changed."""
        shifts, consistency = np.zeros((len(boxes), 2), np.float32), np.ones(len(boxes), np.float32)
        rows = np.flatnonzero(self._touches_moved(boxes))
        if len(rows):
            shifts[rows], consistency[rows] = self._track(boxes[rows])
        return Motion(shifts, consistency)

    def _touches_moved(self, boxes: Boxes) -> npt.NDArray[np.bool_]:
        """Whether each box touches a cell that has changed ``(n,)``."""
        size = np.array(CELLS[::-1], np.float32)
        low = np.clip(np.floor(boxes[:, :2] * size), 0, size - 1).astype(int)
        high = np.clip(np.ceil(boxes[:, 2:] * size), low + 1, size).astype(int)
        spans = zip(low.tolist(), high.tolist(), strict=True)
        return np.array([self.moved[top:bottom, left:right].any() for (left, top), (right, bottom) in spans], np.bool_)

    def _track(self, boxes: Boxes) -> Motion:
        size = np.array(self.grey.shape[::-1], np.float32)
        points = boxes[:, None, :2] + _GRID * (boxes[:, None, 2:] - boxes[:, None, :2])  # (n, points, 2)
        points = np.ascontiguousarray(points * size, np.float32)
        there, found = _flow(self.before, self.grey, points, points, _LEVELS)
        # The way back begins where it should end, so that it needs no pyramid: two thirds of the time, and as good.
        back, returned = _flow(self.grey, self.before, there, points, 0)
        confirmed = found & returned & (((back - points) ** 2).sum(2) < _MAX_RETURN**2)  # (n, points)
        number = confirmed.sum(1)  # (n,)
        # Median of the confirmed points: sorted, they come before the others.
        ranked = np.sort(np.where(confirmed[..., None], there - points, np.inf), 1)
        middle, each = np.maximum(number - 1, 0), np.arange(len(boxes))
        shifts = (ranked[each, middle // 2] + ranked[each, (middle + 1) // 2]) / 2
        shifts[number < _MIN_CONFIRMED] = 0.0
        return Motion((shifts / size).astype(np.float32), (number / len(_GRID)).astype(np.float32))


def _flow(
    start: npt.NDArray[np.uint8],
    end: npt.NDArray[np.uint8],
    points: npt.NDArray[np.float32],
    initial: npt.NDArray[np.float32],
    levels: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Where the points ``(n, points, 2)`` of ``start`` are in ``end``, and which were found ``(n, points)``.

    Args:
        initial: Where the search begins ``(n, points, 2)``.
        levels: Pyramid levels above the pictures.
    """
    there = initial.reshape(-1, 1, 2).copy()  # OpenCV writes the result there
    _, found, _ = cv2.calcOpticalFlowPyrLK(
        start,
        end,
        points.reshape(-1, 1, 2),
        there,
        winSize=_WINDOW,
        maxLevel=levels,
        criteria=_CRITERIA,
        flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )
    return there.reshape(points.shape), found.reshape(points.shape[:2]) > 0


def _grid() -> npt.NDArray[np.float32]:
    """The points of a box, as shares of its width and height ``(points, 2)``."""
    sides, top, bottom = _MARGINS
    across, down = np.linspace(sides, 1 - sides, _POINTS[0]), np.linspace(top, 1 - bottom, _POINTS[1])
    return np.stack(np.meshgrid(across, down), -1).reshape(-1, 2).astype(np.float32)


_GRID = _grid()


def _unknown(boxes: Boxes) -> Motion:
    """No motion is known."""
    return Motion(np.zeros((len(boxes), 2), np.float32), np.zeros(len(boxes), np.float32))
