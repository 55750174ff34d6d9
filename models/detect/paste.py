"""Cut-and-paste: objects of the footage in other places of its own pictures (D. Dwibedi et al., arXiv 1708.01642).

An object is cut out where it differs from the empty scene, which is the median of the frames of a static camera. It is
pasted where objects stand at other times, in the size that objects have there.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cachenet.models.detect.augment import Image
from cachenet.models.detect.footage import Block
from cachenet.shared.cascade.detect.detections import Detections, iou

#: Frames whose median is the empty scene.
_MEDIAN_FRAMES = 60
#: Least mean difference of a pixel's colours from the empty scene, grey levels.
_FOREGROUND = 18.0
#: Share of foreground in all pixels from which a camera counts as moving.
_MOVING = 0.15
#: Least share of a box that is foreground, for an object that is cut out: else it may be a false one, or it stands.
_LEAST_FOREGROUND = 0.3
#: Most cut-outs.
_CUT_OUTS = 400
#: Largest share of a pasted object that may cover another.
_COVERED = 0.3
#: Most objects that are pasted into a picture.
_PASTED = 3
#: Share of the pictures with pasted objects.
_SHARE = 0.5
#: Standard deviation of a place, shares of the picture, and of a size, as a logarithm.
_PLACE, _SIZE = 0.03, 0.08
#: Least number of cut-outs.
_FEWEST = 20


@dataclass(frozen=True)
class CutOut:
    """An object without its background: pixels ``(h, w, 3)``, opacity ``(h, w, 1)`` 0 to 1, and its label."""

    pixels: Image
    opacity: npt.NDArray[np.float32]
    label: int


class Paster:
    """Pastes objects of a static camera's frames into them."""

    def __init__(self, block: Block, seed: int = 0) -> None:
        """``block``: frames of one video."""
        rng = np.random.default_rng(seed)
        some = np.linspace(0, len(block) - 1, min(_MEDIAN_FRAMES, len(block))).astype(int)
        frames = block.pictures[some]
        self._scene = np.median(frames, 0).astype(np.float32)
        self._is_static = bool((np.abs(frames - self._scene).mean(3) > _FOREGROUND).mean() < _MOVING)
        self._cut_outs: list[CutOut] = []
        rows = [(frame, row) for frame, found in enumerate(block.reference) for row in range(len(found))]
        reference = block.reference
        for at in rng.permutation(len(rows))[: 3 * _CUT_OUTS].tolist():
            frame, row = rows[at]
            found = reference[frame]
            if len(self._cut_outs) < _CUT_OUTS and _alone(found, row):
                self._cut(block.pictures[frame], found, row)
        boxes = np.concatenate([np.zeros((0, 4), np.float32), *(found.boxes for found in reference)])
        #: Where objects stand: middle of the lower edge, and logarithm of the height ``(n, 3)``.
        self._places = np.c_[boxes[:, [0, 2]].mean(1), boxes[:, 3], np.log(boxes[:, 3] - boxes[:, 1])]

    @property
    def useful(self) -> bool:
        """Whether the camera is static, and there are enough objects to paste."""
        return self._is_static and len(self._cut_outs) >= _FEWEST

    def __call__(self, image: Image, objects: Detections, rng: np.random.Generator) -> tuple[Image, Detections]:
        """A picture of the block with more objects. The pasted objects have score 1."""
        if rng.random() > _SHARE:
            return image, objects
        canvas = np.array(image)
        for _ in range(rng.integers(1, _PASTED + 1)):
            cut_out = self._cut_outs[rng.integers(len(self._cut_outs))]
            box = self._box(cut_out, rng, image.shape[:2])
            if box is None:
                continue
            area = (box[2:] - box[:2]).prod()
            low, high = np.maximum(objects.boxes[:, :2], box[:2]), np.minimum(objects.boxes[:, 2:], box[2:])
            if len(objects) and np.maximum(high - low, 0).prod(1).max() > _COVERED * area:
                continue
            _blend(canvas, cut_out, box, rng.random() < 0.5)
            objects = Detections(
                np.concatenate([objects.boxes, box[None]]),
                np.append(objects.labels, cut_out.label),
                np.append(objects.scores, np.float32(1)),
            )
        return canvas, objects

    def _box(self, cut_out: CutOut, rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32] | None:
        """A box where objects stand at times, inside the picture; None for none."""
        x, y, size = self._places[rng.integers(len(self._places))] + rng.normal(0, [_PLACE, 0, _SIZE])
        height = np.exp(size)
        rows, columns = cut_out.opacity.shape[:2]
        width = height * shape[0] / rows * columns / shape[1]
        box = np.array([x - width / 2, y - height, x + width / 2, y], np.float32)
        return box if box.min() >= 0 and box.max() <= 1 else None

    def _cut(self, picture: Image, found: Detections, row: int) -> None:
        height, width = picture.shape[:2]
        corners = found.boxes[row] * np.array([width, height, width, height], np.float32)
        left, top = np.floor(corners[:2]).astype(int)
        right, bottom = np.ceil(corners[2:]).astype(int)
        pixels = np.array(picture[top:bottom, left:right])
        differs = np.abs(pixels - self._scene[top:bottom, left:right]).mean(2) > _FOREGROUND
        if min(pixels.shape[:2]) < 4 or differs.mean() < _LEAST_FOREGROUND:
            return
        mask = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
        opacity = np.asarray(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8), np.float32)[..., None]
        self._cut_outs.append(CutOut(pixels, opacity, int(found.labels[row])))


def _alone(found: Detections, row: int) -> bool:
    """Whether nothing overlaps an object."""
    return bool(np.delete(iou(found.boxes[row : row + 1], found.boxes)[0], row).max(initial=0.0) < 0.02)


def _blend(canvas: Image, cut_out: CutOut, box: npt.NDArray[np.float32], mirror: bool) -> None:
    height, width = canvas.shape[:2]
    left, top, right, bottom = (box * np.array([width, height, width, height], np.float32)).round().astype(int).tolist()
    if right - left < 2 or bottom - top < 2:
        return
    size = (right - left, bottom - top)
    pixels = cv2.resize(cut_out.pixels, size, interpolation=cv2.INTER_AREA)
    opacity = cv2.resize(cut_out.opacity, size, interpolation=cv2.INTER_AREA)[..., None]
    if mirror:
        pixels, opacity = pixels[:, ::-1], opacity[:, ::-1]
    part = canvas[top:bottom, left:right]
    part[:] = (opacity * pixels + (1 - opacity) * part).astype(np.uint8)
