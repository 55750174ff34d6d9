"""A camera drawn in software: a static place, a picture that fills its centre square and drifts, sensor noise.

The centre square is what models see (``shared.inference.image.crop``), so that averaging it back to 32x32 gives the
picture again and a classifier of thumbnails can be shown a camera's frame.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from cachenet.shared.inference.image import Picture

#: Standard deviation of a sensor's noise, grey levels.
NOISE = 3.5
WIDTH, HEIGHT = 640, 480


def background(seed: int, scene: int) -> Picture:
    """An empty place, ``(480, 640, 3)`` BGR: texture at six scales in faint colours, with furniture for edges."""
    rng = np.random.default_rng([seed, scene])
    canvas = np.full((HEIGHT, WIDTH, 3), 70 + 80 * rng.random() + 30 * rng.random(3), np.float32)
    # Most furniture stands at the sides, where the picture leaves a view of the place.
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
    """To the size of the largest window of its aspect ratio in a frame: of a square picture ``(480, 480, 3)``."""
    height, width = thumbnail.shape[:2]
    size = round(min(WIDTH, HEIGHT * width / height)), round(min(HEIGHT, WIDTH * height / width))
    return cv2.resize(thumbnail, size, interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def compose(place: Picture, enlarged: Picture, offset: npt.NDArray[np.float32]) -> Picture:
    """``place`` with the enlarged picture in its middle, moved by ``offset`` (right, down) in frame pixels.

    Its place stays full: what drifts in at an edge is the picture mirrored, as in the shifts that models train on.
    """
    shift = np.array([[1, 0, offset[0]], [0, 1, offset[1]]], np.float64)
    frame: Picture = place.copy()
    height, width = enlarged.shape[:2]
    top, left = (HEIGHT - height) // 2, (WIDTH - width) // 2
    frame[top : top + height, left : left + width] = cv2.warpAffine(
        enlarged, shift, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return frame


class SensorNoise:
    """White Gaussian noise of ``sigma`` grey levels, independent per pixel and channel.

    Every frame takes its own window of one tile drawn beforehand: a frame's noise costs two saturating additions,
    where drawing it costs 10 ms, and windows that differ at all are uncorrelated. One in 65,536 pairs is the same.
    """

    _POSITIONS = 256

    def __init__(self, height: int, width: int, sigma: float, seed: int) -> None:
        shape = (height + self._POSITIONS - 1, width + self._POSITIONS - 1, 3)
        tile = np.rint(np.random.default_rng(seed).normal(0.0, sigma, shape))
        self._lighter = np.clip(tile, 0, 255).astype(np.uint8)
        self._darker = np.clip(-tile, 0, 255).astype(np.uint8)
        self._height, self._width = height, width

    def add(self, picture: Picture, seed: int) -> Picture:
        """``picture`` of the size given before, with the noise of ``seed``, clipped at black and white."""
        top, left = seed % self._POSITIONS, seed // self._POSITIONS % self._POSITIONS
        window = np.s_[top : top + self._height, left : left + self._width]
        return cv2.subtract(cv2.add(picture, self._lighter[window]), self._darker[window])  # type: ignore[return-value]
