"""A user's unlabelled frames: pictures, videos, class directories or a mix, read in one order, and what each part is
for.

Neighbouring frames show the same thing, so a random half of them would prove nothing about the other half. Each video,
and each folder of pictures in the natural order of their names, is a *sequence* that is divided by time: models learn
from its beginning and are certified on its end, with frames left out between.
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
from cachenet.shared.inference.image import BadPicture, Picture
from cachenet.shared.media import pictures
from cachenet.shared.media.pictures import LISTED, SUFFIXES
from cachenet.shared.media.video import BadVideo, Video

_VIDEOS = {".avi", ".mp4", ".mkv", ".mov", ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts"}
#: What a part is for, and its share of the whole: what models learn from, what temperatures and priors are fitted on,
#: and what certificates are found on.
USES = ("learn", "tune", "prove")
_SHARES = (0.7, 0.1, 0.2)
#: The same where the user holds frames out: models learn from others.
HELD_OUT_SHARES = (0.0, 0.2, 0.8)
#: Frames left out between two uses, at most, and as a share of the sequence.
_GAP, _GAP_SHARE = 16, 1 / 40
#: Frames of a sequence that can be divided, at least; a shorter one has one use.
_DIVISIBLE = 20


class FramesError(UserError):
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

    def sequences(self, files: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Which frames follow one another: number of the sequence that each frame is part of, in order ``(frames,)``.
        A video is one, and so are pictures of one folder.

        Args:
            files: Number of each frame's file, in the order of reading ``(frames,)``.
        """
        sources = [str(path if is_video(path) else path.parent) for path in self.files]
        changes = [0, *(int(one != other) for one, other in itertools.pairwise(sources))]
        numbers: npt.NDArray[np.int64] = np.cumsum(changes)[files]
        return numbers


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


def uses(sequences: Sequence[int], shares: tuple[float, ...] = _SHARES) -> npt.NDArray[np.int8]:
    """What each frame is for.

    Args:
        sequences: Number of the sequence that each frame is part of, in order ``(frames,)``.
        shares: Share of each of ``USES``; they sum to 1.

    Returns:
        An index of ``USES`` for each frame, or -1 in a gap ``(frames,)``. Each use of a sequence is one run of frames,
        in the order of ``USES``. A sequence of under ``_DIVISIBLE`` frames goes whole to the use that has least of its
        share.
    """
    numbers = np.asarray(sequences, np.int64)
    use = np.full(len(numbers), -1, np.int8)
    counts = np.zeros(len(USES))
    begins = np.flatnonzero(np.diff(numbers, prepend=-1) != 0)
    runs = list(zip(begins.tolist(), [*begins[1:].tolist(), len(numbers)], strict=False))
    wanted = [number for number, share in enumerate(shares) if share > 0]
    for first, end in sorted(runs, key=lambda run: run[1] - run[0] < _DIVISIBLE):  # the short ones last
        length = end - first
        if length < _DIVISIBLE:
            chosen = min(wanted, key=lambda number: counts[number] / shares[number])
            use[first:end] = chosen
            counts[chosen] += length
            continue
        bounds = first + np.round(np.cumsum((0.0, *shares)) * length).astype(int)
        gap = min(_GAP, int(length * _GAP_SHARE))
        for number in wanted:
            # What learns gives the gap before what tunes, and what proves the one after it: least is tuned on.
            learns, proves = number == 0, number == len(USES) - 1
            use[bounds[number] + gap * proves : bounds[number + 1] - gap * learns] = number
        counts += [(use[first:end] == number).sum() for number in range(len(USES))]
    return use
