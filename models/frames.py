"""A user's unlabelled frames: pictures, videos, class directories or a mix, read in one order, and what each part is
for.

Neighbouring frames of a video show the same thing, so a random half of them would prove nothing about the other half:
videos are cut into blocks of consecutive frames, each block has one use, and the frames next to another use's block are
left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shared import pictures
from shared.image import BadPicture, Picture
from shared.names import natural, shown
from shared.pictures import LISTED, SUFFIXES
from shared.refusal import Refusal
from shared.video import BadVideo, Video

_VIDEOS = {".avi", ".mp4", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts"}
#: Frames of a block and of the gap between two that are used for different things, at most; and how many blocks there
#: should be, so that each use gets some of a short video.
_BLOCK, _GAP, _BLOCKS = 100, 16, 12
#: What a part is for, and its share of the whole: what models learn from, what temperatures are fitted on, and what
#: gates are proven on.
USES = ("learn", "tune", "prove")
_SHARES = (0.7, 0.1, 0.2)


class FramesError(Refusal):
    """There is nothing to learn from; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One frame: of which ``file``, and the ``folder`` that it is in, a class where the model has one of that name."""

    picture: Picture
    file: int
    folder: str


@dataclass
class Frames:
    """Files to read, and the folder of each, right under where it was looked for; of a video every ``every``\\ th frame
    counts. Filled while reading, ``broken``: those that were skipped, and why; ``remarks``: what else is to be told of
    a file; ``damaged``: frames of videos that are damaged or missing."""

    files: tuple[Path, ...]
    folders: tuple[str, ...]
    every: int = 1
    broken: dict[Path, str] = field(default_factory=dict)
    remarks: dict[Path, str] = field(default_factory=dict)
    damaged: int = 0

    def __iter__(self) -> Iterator[Shown]:
        """All frames in order of file and place. A file that cannot be read is skipped and noted."""
        self.damaged = 0
        for number, (path, folder) in enumerate(zip(self.files, self.folders, strict=True)):
            try:
                for picture in self._pictures(path):
                    yield Shown(picture, number, folder)
            except (BadPicture, BadVideo) as error:  # noqa: PERF203 - one file does not end the others
                self.broken[path] = str(error)
            except OSError as error:
                self.broken[path] = str(error.strerror)

    def _pictures(self, path: Path) -> Iterator[Picture]:
        """Of one file. Raises ``BadPicture``, ``BadVideo`` and ``OSError``."""
        if path.suffix.lower() not in _VIDEOS:
            yield pictures.read(path)
            return
        video, count = Video(path), 0
        for frame in video.frames(self.every):
            yield frame.picture
            count += 1
        self.damaged += video.broken
        if not count:
            raise BadVideo("no frame of it can be decoded")
        if remarks := video.remarks():
            self.remarks[path] = "; ".join(remarks)


def is_video(path: Path) -> bool:
    return path.suffix.lower() in _VIDEOS


def find(path: Path, every: int = 1) -> Frames:
    """What there is to read: ``path`` is a video, or a directory of pictures and videos, as deep as it goes. Raises
    ``FramesError``."""
    if path.is_file():
        if path.suffix.lower() not in _VIDEOS | SUFFIXES:
            raise FramesError(f"{shown(path)} is neither a directory nor a video ({' '.join(sorted(_VIDEOS))})")
        return Frames((path,), ("",), every)
    if not path.is_dir():
        raise FramesError(f"{shown(path)} is {'no file and no directory' if path.exists() else 'not there'}")
    unlisted: list[OSError] = []
    files = tuple(
        sorted(
            (
                Path(directory, name)
                for directory, _, names in os.walk(path, onerror=unlisted.append)
                for name in names
                if Path(name).suffix.lower() in LISTED | _VIDEOS and not name.startswith(".")
            ),
            key=lambda file: tuple(map(natural, file.relative_to(path).parts)),
        )
    )
    if not files:
        raise FramesError(f"{shown(path)} holds no pictures ({' '.join(sorted(SUFFIXES))}) and no videos")
    folders = (file.relative_to(path).parts for file in files)
    broken = {Path(error.filename): f"the directory cannot be listed: {error.strerror}" for error in unlisted}
    return Frames(files, tuple(parts[0] if len(parts) > 1 else "" for parts in folders), every, broken)


def uses(files: Sequence[int], seed: int) -> npt.NDArray[np.int8]:
    """What each frame is for, as an index of ``USES``, or -1 in a gap, ``(frames,)``. ``files``: the file of each, as
    read, in order. A picture is a block of its own. Blocks are dealt out at random in proportion to the uses' shares.
    """
    of_file = np.asarray(files, np.int64)
    if not len(of_file):
        return np.zeros(0, np.int8)
    block = max(2, min(_BLOCK, len(of_file) // _BLOCKS))
    gap = min(_GAP, block // 2)
    place = np.arange(len(of_file))
    begins = np.r_[True, np.diff(of_file) != 0]
    within = place - np.maximum.accumulate(np.where(begins, place, 0))
    # What is left at a video's end is part of its last block: a rest of some frames would be all gap.
    run = np.cumsum(begins) - 1
    left = np.bincount(run)[run] - (within - within % block)
    number = np.cumsum(begins | ((within % block == 0) & (left >= block))) - 1
    use = _deal(int(number[-1]) + 1, np.random.default_rng(seed))[number]
    borders = np.flatnonzero(~begins[1:] & (np.diff(use) != 0)) + 1
    for border in borders:
        near = slice(max(0, border - gap // 2), border + gap // 2)
        use[near][of_file[near] == of_file[border]] = -1
    dealt: npt.NDArray[np.int8] = use.astype(np.int8)
    return dealt


def _deal(count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A use for each of ``count`` blocks: in proportion, and every use at least once if there are enough."""
    bounds = np.round(np.cumsum((0.0, *_SHARES)) * count).astype(int)
    in_order = np.repeat(np.arange(len(USES)), np.diff(bounds))
    if count >= len(USES):
        for use in range(len(USES)):
            if not (in_order == use).any():
                in_order[np.bincount(in_order, minlength=len(USES))[in_order].argmax()] = use
    dealt: npt.NDArray[np.int64] = rng.permutation(in_order)
    return dealt
