"""A user's unlabelled frames: images, videos, class directories or a mix, and their division by use.

Consecutive frames are nearly alike, so a random split would leak. Each video, and each folder of images in natural
order of names, is a *sequence* that is divided by time. Models train on its beginning and are certified on its end,
with a gap between.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cachenet.shared.command.errors import UserError
from cachenet.shared.command.file_names import natural, shown
from cachenet.shared.inference.image import BadPicture, Picture, Region, cut
from cachenet.shared.media import pictures
from cachenet.shared.media.pictures import LISTED, SUFFIXES
from cachenet.shared.media.video import BadVideo, Video

_VIDEOS = {".avi", ".mp4", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts"}
#: Uses of frames: to train models, to fit temperatures and priors, to compute certificates.
USES = ("learn", "tune", "prove")
#: Share of a sequence for each use.
_SHARES = (0.7, 0.1, 0.2)
#: Share of a held-out sequence for each use.
HELD_OUT_SHARES = (0.0, 0.2, 0.8)
#: Maximum gap between two uses, frames.
_GAP = 16
#: Maximum gap as a share of the sequence.
_GAP_SHARE = 1 / 40
#: Minimum length of a sequence that is divided, frames; a shorter one has one use.
_DIVISIBLE = 20


class FramesError(UserError):
    """There are no or too few usable frames. The message names the remedy."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One frame, the number of its ``file``, and its top-level ``folder``, which may be the name of a class.

    ``number`` is that of a frame in its video, from 0; 0 for an image.
    """

    picture: Picture
    file: int
    folder: str
    number: int = 0


@dataclass
class Frames:
    """Files to read in order. Iteration yields their frames and fills the last three attributes."""

    files: tuple[Path, ...]  # Images and videos
    folders: tuple[str, ...]  # Top-level folder of each file, empty if the file has none
    frame_step: int = 1  # Step between the frames of a video that are used
    region: Region | None = None  # Part of each frame that is used
    broken: dict[Path, str] = field(default_factory=dict)  # Skipped files with the reason
    remarks: dict[Path, str] = field(default_factory=dict)  # Other findings about files
    damaged: int = 0  # Number of damaged or missing video frames

    def __iter__(self) -> Iterator[Shown]:
        """Yield all frames in order of file and position. A file that cannot be read goes into ``broken``."""
        self.damaged = 0
        for file, (path, folder) in enumerate(zip(self.files, self.folders, strict=True)):
            try:
                for number, picture in self._pictures(path):
                    yield Shown(picture if self.region is None else cut(picture, self.region), file, folder, number)
            except (BadPicture, BadVideo) as error:  # noqa: PERF203
                self.broken[path] = str(error)
            except OSError as error:
                self.broken[path] = str(error.strerror)

    def name(self, file: int, number: int) -> str:
        """Name of the frame ``number`` of a file: that of the file, and for a video the number."""
        path = self.files[file]
        return f"{path.name}, frame {number}" if is_video(path) else path.name

    def _pictures(self, path: Path) -> Iterator[tuple[int, Picture]]:
        """Yield number and picture of each frame of one file. Raises ``BadPicture``, ``BadVideo`` or ``OSError``."""
        if path.suffix.lower() not in _VIDEOS:
            yield 0, pictures.read(path)
            return
        video, count = Video(path), 0
        for frame in video.frames(self.frame_step):
            yield frame.number, frame.picture
            count += 1
        self.damaged += video.broken
        if not count:
            raise BadVideo("no frame of it can be decoded")
        if remarks := video.remarks():
            self.remarks[path] = "; ".join(remarks)

    def sequences(self, files: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the sequence number of each frame ``(frames,)``; a video or the images of a folder are one sequence.

        Args:
            files: File number of each frame in reading order ``(frames,)``.
        """
        sources = [str(path if is_video(path) else path.parent) for path in self.files]
        changes = [0, *(int(one != other) for one, other in itertools.pairwise(sources))]
        numbers: npt.NDArray[np.int64] = np.cumsum(changes)[files]
        return numbers


def is_video(path: Path) -> bool:
    return path.suffix.lower() in _VIDEOS


def find(path: Path, frame_step: int = 1, region: Region | None = None) -> Frames:
    """Find the files to read.

    Args:
        path: Video, or directory of images and videos, searched recursively.
        frame_step: Step between the frames of a video that are used.
        region: Part of each frame that is used; None for all of it.

    Raises:
        FramesError: ``path`` does not exist or holds no images and videos.
    """
    if path.is_file():
        if path.suffix.lower() not in _VIDEOS | SUFFIXES:
            raise FramesError(f"{shown(path)} is neither a directory nor a video ({' '.join(sorted(_VIDEOS))})")
        return Frames((path,), ("",), frame_step, region)
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
    return Frames(files, tuple(parts[0] if len(parts) > 1 else "" for parts in folders), frame_step, region, broken)


def uses(sequences: Sequence[int], shares: tuple[float, ...] = _SHARES) -> npt.NDArray[np.int8]:
    """Assign a use to each frame.

    Args:
        sequences: Sequence number of each frame, ascending ``(frames,)``.
        shares: Share of each of ``USES``; the sum is 1.

    Returns:
        Index into ``USES`` for each frame, -1 in a gap ``(frames,)``. Each use of a sequence is one run of frames, in
        the order of ``USES``. A short sequence goes as a whole to the use that lacks most of its share.
    """
    numbers = np.asarray(sequences, np.int64)
    use = np.full(len(numbers), -1, np.int8)
    counts = np.zeros(len(USES))
    begins = np.flatnonzero(np.diff(numbers, prepend=-1) != 0)
    runs = list(zip(begins.tolist(), [*begins[1:].tolist(), len(numbers)], strict=False))
    wanted = [number for number, share in enumerate(shares) if share > 0]
    for first, end in sorted(runs, key=lambda run: run[1] - run[0] < _DIVISIBLE):  # short sequences last
        length = end - first
        if length < _DIVISIBLE:
            chosen = min(wanted, key=lambda number: counts[number] / shares[number])
            use[first:end] = chosen
            counts[chosen] += length
            continue
        bounds = first + np.round(np.cumsum((0.0, *shares)) * length).astype(int)
        gap = min(_GAP, int(length * _GAP_SHARE))
        for number in wanted:
            # The gaps are cut from training and certification frames, because tuning has the fewest.
            is_first, is_last = number == 0, number == len(USES) - 1
            use[bounds[number] + gap * is_last : bounds[number + 1] - gap * is_first] = number
        counts += [(use[first:end] == number).sum() for number in range(len(USES))]
    return use
