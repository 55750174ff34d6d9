"""Synthetic camera frames: a static background, an image that drifts in its centre square, and sensor noise.

The centre square is what models see (``shared.inference.image.crop``). Averaged back to 32x32 it gives the image again,
so a classifier of thumbnails can classify camera frames.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from cachenet.shared.inference.image import Picture

#: Standard deviation of the sensor noise, grey levels.
NOISE = 3.5
#: Frame size, pixels.
WIDTH, HEIGHT = 640, 480


def background(seed: int, scene: int) -> Picture:
    """Draw a background, ``(480, 640, 3)`` BGR: texture at six scales in faint colours, and rectangles for edges."""
    rng = np.random.default_rng([seed, scene])
    canvas = np.full((HEIGHT, WIDTH, 3), 70 + 80 * rng.random() + 30 * rng.random(3), np.float32)
    # Most rectangles stand at the sides, which the image in the centre does not cover.
    for side, across, down, wide, high, *tone in rng.random((24, 8)):
        left = int(across * WIDTH) if side < 0.2 else int(across * 80) - 10 + (WIDTH - 80) * (side > 0.6)
        top = int(down * HEIGHT) - 30
        bottom, right = top + 30 + int(140 * high), left + 10 + int(60 * wide)
        canvas[max(0, top) : bottom, max(0, left) : right] = 40 + 130 * high + 40 * np.array(tone)
    for cells, contrast in ((2, 60), (5, 40), (12, 24), (40, 18), (120, 14), (480, 8)):
        field = rng.random((cells, cells * WIDTH // HEIGHT, 4)) - 0.5
        grain = contrast * (field[:, :, :1] + 0.2 * field[:, :, 1:])
        canvas += cv2.resize(grain.astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def enlarge(thumbnail: Picture) -> Picture:
    """Scale to the largest size of the same aspect ratio that fits in a frame: ``(480, 480, 3)`` if square."""
    height, width = thumbnail.shape[:2]
    size = round(min(WIDTH, HEIGHT * width / height)), round(min(HEIGHT, WIDTH * height / width))
    return cv2.resize(thumbnail, size, interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def compose(canvas: Picture, enlarged: Picture, offset: npt.NDArray[np.float32]) -> Picture:
    """Return ``canvas`` with the enlarged image in its centre, shifted by ``offset`` (right, down) in frame pixels.

    The image's window does not move. Pixels that enter at its edge are the image mirrored, as in ``training.augment``.
    """
    shift = np.array([[1, 0, offset[0]], [0, 1, offset[1]]], np.float64)
    frame: Picture = canvas.copy()
    height, width = enlarged.shape[:2]
    top, left = (HEIGHT - height) // 2, (WIDTH - width) // 2
    frame[top : top + height, left : left + width] = cv2.warpAffine(
        enlarged, shift, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return frame


class SensorNoise:
    """White Gaussian noise of ``sigma`` grey levels, independent per pixel and channel.

    Each frame uses a window of one tile that is drawn once: two saturating additions per frame instead of 10 ms.
    Different windows are uncorrelated. One pair of frames in 65,536 shares a window.
    """

    _POSITIONS = 256

    def __init__(self, height: int, width: int, sigma: float, seed: int) -> None:
        shape = (height + self._POSITIONS - 1, width + self._POSITIONS - 1, 3)
        tile = np.rint(np.random.default_rng(seed).normal(0.0, sigma, shape))
        self._positive = np.clip(tile, 0, 255).astype(np.uint8)
        self._negative = np.clip(-tile, 0, 255).astype(np.uint8)
        self._height, self._width = height, width

    def add(self, picture: Picture, seed: int) -> Picture:
        """Return ``picture`` ``(height, width, 3)`` with the noise of ``seed``, clipped to 0..255."""
        top, left = seed % self._POSITIONS, seed // self._POSITIONS % self._POSITIONS
        window = np.s_[top : top + self._height, left : left + self._width]
        return cv2.subtract(cv2.add(picture, self._positive[window]), self._negative[window])  # type: ignore[return-value]
