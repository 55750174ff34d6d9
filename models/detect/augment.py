"""Random views of a picture with objects: mirrored, scaled, shifted, in other light, with noise."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import Detections, checked

#: A picture ``(height, width, 3)`` uint8 RGB.
Image = npt.NDArray[np.uint8]
#: Smallest and largest scale.
_SCALES = (0.7, 1.4)
#: Largest change of the aspect ratio, as a share.
_ASPECT = 0.07
#: Largest shift, as a share of the picture.
_SHIFT = 0.2
#: Grey level of what lies outside the picture.
_OUTSIDE = (114, 114, 114)
#: Contrast, and largest change of brightness, grey levels.
_CONTRAST, _BRIGHTNESS = (0.75, 1.25), 20.0
#: Gain of each colour.
_COLOUR = (0.9, 1.1)
#: Largest standard deviation of the noise, grey levels.
_NOISE = 8.0
#: Share of the views with another colour, and with noise.
_SOME = 0.3
#: Least share of an object that the view shows.
_VISIBLE = 0.35


def view(image: Image, objects: Detections, classes: int, rng: np.random.Generator) -> tuple[Image, Detections]:
    """A random view of ``image`` and its ``objects``, of the same size."""
    height, width = image.shape[:2]
    boxes = objects.boxes
    if rng.random() < 0.5:
        image = image[:, ::-1]
        boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1)
    across = float(np.exp(rng.uniform(*np.log(_SCALES))))
    scale = np.array([across, across * rng.uniform(1 - _ASPECT, 1 + _ASPECT)])
    shift = (1 - scale) / 2 + rng.uniform(-_SHIFT, _SHIFT, 2)  # about the centre; shares of the picture
    matrix = np.array([[scale[0], 0, shift[0] * width], [0, scale[1], shift[1] * height]])
    moved = cv2.warpAffine(
        np.ascontiguousarray(image), matrix, (width, height), borderMode=cv2.BORDER_CONSTANT, borderValue=_OUTSIDE
    )
    boxes = (boxes * np.tile(scale, 2) + np.tile(shift, 2)).astype(np.float32)
    inside = np.clip(boxes, 0, 1)
    visible = (inside[:, 2:] - inside[:, :2]).prod(1) >= _VISIBLE * (boxes[:, 2:] - boxes[:, :2]).prod(1)
    found = checked(boxes[visible], objects.labels[visible], objects.scores[visible], classes)
    return _light(moved, rng), found  # type: ignore[arg-type]


def _light(image: Image, rng: np.random.Generator) -> Image:
    """``image`` in other light and with noise."""
    gain = np.full(3, rng.uniform(*_CONTRAST)) * (rng.uniform(*_COLOUR, 3) if rng.random() < _SOME else 1.0)
    levels = np.arange(256)[:, None] * gain + rng.uniform(-_BRIGHTNESS, _BRIGHTNESS)
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)[None]  # (1, 256, 3)
    lit: Image = cv2.LUT(image, table)  # type: ignore[assignment]
    if rng.random() < _SOME:
        noise = rng.standard_normal(lit.shape, np.float32) * np.float32(rng.uniform(0, _NOISE))
        lit = np.clip(lit + noise, 0, 255).astype(np.uint8)
    return lit
