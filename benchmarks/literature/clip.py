"""The pictures of a clip, and the frames of the clip of one person that rows use."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

from benchmarks.real_tasks import ONE, Range
from cachenet.shared.inference.image import Picture
from cachenet.shared.media.video import Video


def parts(smoke: bool) -> tuple[Range, Range, Range]:
    """Frames of ``one_by_one_person.mp4`` to learn from, to tune with and to measure on."""
    return ((40, 64), (64, 88), (88, 112)) if smoke else (ONE.learn, ONE.tune, ONE.play)


def region_pictures(video: Path, region: tuple[int, int, int, int], end: int) -> list[Picture]:
    """The region of the frames before ``end``."""
    x, y, width, height = region
    with contextlib.closing(Video(video)) as clip:
        frames = itertools.islice(clip.frames(), end)
        return [frame.picture[y : y + height, x : x + width].copy() for frame in frames]
