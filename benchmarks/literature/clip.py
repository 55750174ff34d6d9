"""The clips and tasks of ``benchmarks.real_tasks``, and the frames of them that rows use."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

from benchmarks.real_tasks import DEBIAN, ONE, Clip, Range, Region, Task, existing_task
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import Picture
from cachenet.shared.media.video import Video


def video(clip: Clip, data: Path) -> Path:
    """The file of a clip. Raises ``UserError`` if it is not there."""
    paths = data / "videos" / clip.video, DEBIAN / clip.video
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise UserError(f"{clip.video} is in none of {paths[0].parent}, {DEBIAN}: see --data, and package opencv-doc")
    return found


def existing(name: str, data: Path) -> Task:
    """A task of ``state/``. Raises ``UserError`` if its clip or a model is not there."""
    task = existing_task(name, video(ONE, data), data / "state")
    for path in (task.full, task.base):
        if not path.is_file():
            raise UserError(f"{path} is not there; name the directory of clips and tasks with --data")
    return task


def parts(smoke: bool) -> tuple[Range, Range, Range]:
    """Frames of ``one_by_one_person.mp4`` to learn from, to tune with and to measure on."""
    return ((40, 64), (64, 88), (88, 112)) if smoke else (ONE.learn, ONE.tune, ONE.play)


def region_pictures(path: Path, region: Region, first: int, end: int) -> list[Picture]:
    """The region of the frames from ``first`` to before ``end``."""
    x, y, width, height = region
    with contextlib.closing(Video(path)) as source:
        frames = itertools.islice(source.frames(), first, end)
        return [frame.picture[y : y + height, x : x + width].copy() for frame in frames]
