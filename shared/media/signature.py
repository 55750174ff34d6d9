"""Computes the signature of a picture; see ``shared.cascade.frame.Signature``."""

from __future__ import annotations

import cv2
import numpy as np

from cachenet.shared.cascade.frame import Signature
from cachenet.shared.inference.image import Picture

#: Blocks of a signature, across and down.
_BLOCKS = (16, 12)
#: Width and height of a thumbnail, pixels.
_THUMBNAIL = (32, 24)
#: Approximate number of sampled points, across and down; keeps the cost independent of the resolution.
_SAMPLED = (160, 120)


def sign(picture: Picture) -> Signature:
    """Compute the signature of a picture of any size."""
    across, down = (max(1, size // points) for size, points in zip(picture.shape[1::-1], _SAMPLED, strict=True))
    # The green channel approximates brightness with a third of the bytes.
    sampled = np.ascontiguousarray(picture[down // 2 :: down, across // 2 :: across, 1])
    thumbnail = cv2.resize(sampled, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
    blocks = cv2.resize(thumbnail, _BLOCKS, interpolation=cv2.INTER_AREA)
    return Signature(blocks, thumbnail)  # type: ignore[arg-type]
