"""The signature of a picture: see ``shared.cascade.frame``."""

from __future__ import annotations

import cv2
import numpy as np

from cachenet.shared.cascade.frame import Signature
from cachenet.shared.inference.image import Picture

#: Width and height of a signature's blocks, and of its thumbnail.
_BLOCKS, _THUMBNAIL = (16, 12), (32, 24)
#: A picture is sampled at about so many points across and down, which keeps the cost constant whatever the resolution.
_SAMPLED = (160, 120)


def sign(picture: Picture) -> Signature:
    """The signature of a picture of any size."""
    across, down = (max(1, size // points) for size, points in zip(picture.shape[1::-1], _SAMPLED, strict=True))
    # Green is most of brightness, and a third of the bytes.
    sampled = np.ascontiguousarray(picture[down // 2 :: down, across // 2 :: across, 1])
    thumbnail = cv2.resize(sampled, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
    blocks = cv2.resize(thumbnail, _BLOCKS, interpolation=cv2.INTER_AREA)
    return Signature(blocks, thumbnail)  # type: ignore[arg-type]
