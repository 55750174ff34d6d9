"""A stream directory: the pictures of a recorded stream, and the true labels where they are known.

``stream.json`` is written last, so a directory with this file is complete. Pictures are numbered files, which
``ffmpeg`` and OpenCV read as an image sequence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Literal

import cv2
import msgspec

from cachenet.shared.command.errors import UserError
from cachenet.shared.command.file_names import shown
from cachenet.shared.inference.image import BadPicture, Picture
from cachenet.shared.media import pictures

FORMAT = 1
MANIFEST = "stream.json"

Files = Literal["%06d.png", "%06d.jpg"]
#: Encoder options by pattern. JPEG at quality 95 preserves sensor noise, which a frame cache must tolerate.
_CODEC: dict[Files, list[int]] = {
    "%06d.png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
    "%06d.jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
}


class StreamError(UserError):
    """A directory that is not a complete stream, or cannot become one. The message says why."""


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``stream.json``.

    Attributes:
        seed: Seed of a synthetic stream; None for others.
        fps: Frame rate, frames per second.
        truth: Index of each frame's true label; None where unknown.
        files: Pattern of the file names: PNG for thumbnails, JPEG above.
        times: Time of each frame, seconds, increasing; unset at the constant rate ``fps``.
    """

    format: int = FORMAT
    name: str
    seed: int | None
    frames: int
    fps: float
    labels: tuple[str, ...]
    truth: tuple[int, ...] | None
    files: Files
    # Left out of the JSON where unset, so that earlier versions can read the stream.
    times: tuple[float, ...] | msgspec.UnsetType = msgspec.UNSET

    def seconds(self) -> tuple[float, ...]:
        """Time of each frame, seconds."""
        if self.times is not msgspec.UNSET:
            return self.times
        return tuple(number / self.fps for number in range(self.frames))

    def check(self) -> None:
        """Raise ``StreamError`` if the fields are inconsistent."""
        if self.format != FORMAT:
            raise StreamError(f"format {self.format}, this version reads {FORMAT}")
        if self.frames < 1 or not 0 < self.fps <= 1000:
            raise StreamError(f"{self.frames} frames at {self.fps} a second cannot be")
        if self.truth is not None:
            if len(self.truth) != self.frames:
                raise StreamError(f"{len(self.truth)} true labels for {self.frames} frames")
            if any(not 0 <= label < len(self.labels) for label in self.truth):
                raise StreamError(f"a true label is not one of the {len(self.labels)} labels")
        if self.times is not msgspec.UNSET:
            if len(self.times) != self.frames:
                raise StreamError(f"{len(self.times)} times for {self.frames} frames")
            if not all(before < after < 1e9 for before, after in pairwise((-1e9, *self.times))):
                raise StreamError("times do not rise")


def read(directory: Path) -> Recording:
    """Read and check ``stream.json``. Raises ``StreamError``."""
    try:
        recording = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Recording)
        recording.check()
    except NotADirectoryError:
        raise StreamError(
            f"{directory} is a file, not the directory of a stream; 'edge-agent run --set record=DIR' makes one of it"
        ) from None
    except OSError as error:
        raise StreamError(f"{directory} is no stream: {error.strerror} ({MANIFEST})") from None
    except (msgspec.DecodeError, StreamError) as error:
        raise StreamError(f"{directory / MANIFEST}: {error}") from None
    return recording


def picture(directory: Path, recording: Recording, index: int) -> Picture:
    """Picture of frame ``index``, from 0: ``(height, width, 3)`` BGR. Raises ``StreamError``."""
    path = directory / (recording.files % index)
    try:
        return pictures.read(path)
    except (OSError, BadPicture) as error:
        raise StreamError(f"{shown(path)}: {pictures.reason(error)}") from None


class RecordingWriter:
    """A stream directory under construction: pictures first, one after the other, and what they are at the end."""

    def __init__(self, directory: Path, files: Files) -> None:
        """Create ``directory``, which must be new or empty. Raises ``StreamError``."""
        self.count = 0
        self._directory, self._files = directory, files
        self._written: list[Path] = []
        try:
            directory.mkdir(parents=True, exist_ok=True)
            # Numbered pictures may be the user's own; nothing is overwritten.
            taken = any(directory.iterdir())
        except OSError as error:
            raise StreamError(f"{directory}: {error.strerror}") from None
        if taken:
            raise StreamError(f"{directory} is not empty; name a new directory")

    def add(self, frame: Picture) -> None:
        """Write the next picture. Raises ``StreamError``."""
        done, data = cv2.imencode(Path(self._files).suffix, frame, _CODEC[self._files])
        if not done:
            raise StreamError(f"picture {self.count} could not be encoded")
        self._put(self._directory / (self._files % self.count), data.tobytes())
        self.count += 1

    def finish(self, recording: Recording) -> None:
        """Write ``stream.json``. Raises ``StreamError``."""
        recording.check()
        if self.count < recording.frames:
            raise StreamError(f"{self.count} pictures, {recording.frames} promised")
        partial = self._directory / (MANIFEST + ".part")
        self._put(partial, msgspec.json.encode(recording))
        try:
            partial.rename(self._directory / MANIFEST)
        except OSError as error:
            raise StreamError(f"{self._directory}: {error.strerror}") from None

    def discard(self) -> None:
        """Delete the files written so far."""
        for path in self._written:
            path.unlink(missing_ok=True)

    def _put(self, path: Path, data: bytes) -> None:
        self._written.append(path)
        try:
            path.write_bytes(data)
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # frees space for the rest on a full disk
            raise StreamError(f"{self._directory}: {error.strerror}") from None


def write(directory: Path, recording: Recording, pictures: Iterable[Picture]) -> None:
    """Write a stream into ``directory``, which must be new or empty. A failure or interruption leaves no file.

    Raises:
        StreamError: The number of pictures is wrong, or a file cannot be written.
    """
    recording.check()
    writer = RecordingWriter(directory, recording.files)
    try:
        for frame in pictures:
            if writer.count == recording.frames:
                raise StreamError(f"more than the {recording.frames} pictures promised")
            writer.add(frame)
        writer.finish(recording)
    except BaseException:
        writer.discard()
        raise
