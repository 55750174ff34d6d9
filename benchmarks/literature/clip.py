"""The pictures of a clip."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

from cachenet.shared.inference.image import Picture
from cachenet.shared.media.video import Video


def region_pictures(video: Path, region: tuple[int, int, int, int], end: int) -> list[Picture]:
    """The region of the frames before ``end``."""
    x, y, width, height = region
    with contextlib.closing(Video(video)) as clip:
        frames = itertools.islice(clip.frames(), end)
        return [frame.picture[y : y + height, x : x + width].copy() for frame in frames]
