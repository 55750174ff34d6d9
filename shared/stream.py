"""A stream directory: the pictures of a recorded stream, with the truth beside them where it is known.

``stream.json`` is written last, so a directory that has one is whole. Pictures are numbered files, a pattern that
``ffmpeg`` and OpenCV read as an image sequence too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import cv2
import msgspec

from shared.image import BadPicture, Picture, decode

FORMAT = 1
MANIFEST = "stream.json"

# JPEG of 95 keeps the sensor noise, which is what a frame cache must live with.
_CODEC = {"%06d.png": [cv2.IMWRITE_PNG_COMPRESSION, 1], "%06d.jpg": [cv2.IMWRITE_JPEG_QUALITY, 95]}


class StreamError(Exception):
    """A directory that is no whole stream or cannot become one; the message says what is wrong with it."""


class Recording(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``stream.json``. ``files``: PNG for thumbnails, JPEG above. ``labels``: names of the classes. ``truth``: per
    frame the index of its label, None where nobody knows. ``seed``: None for what was not drawn."""

    format: int = FORMAT
    name: str
    seed: int | None
    frames: int
    fps: float
    labels: tuple[str, ...]
    truth: tuple[int, ...] | None
    files: Literal["%06d.png", "%06d.jpg"]

    def check(self) -> None:
        """Raise ``StreamError`` if the fields do not fit one another."""
        if self.format != FORMAT:
            raise StreamError(f"format {self.format}, this version reads {FORMAT}")
        if self.frames < 1 or not 0 < self.fps <= 1000:
            raise StreamError(f"{self.frames} frames at {self.fps} a second cannot be")
        if self.truth is not None:
            if len(self.truth) != self.frames:
                raise StreamError(f"{len(self.truth)} true labels for {self.frames} frames")
            if any(not 0 <= label < len(self.labels) for label in self.truth):
                raise StreamError(f"a true label is not one of the {len(self.labels)} labels")


def read(directory: Path) -> Recording:
    """Read and check ``stream.json``. Raises ``StreamError``."""
    try:
        recording = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Recording)
        recording.check()
    except OSError as error:
        raise StreamError(f"{directory} is no stream: {error.strerror} ({MANIFEST})") from None
    except (msgspec.DecodeError, StreamError) as error:
        raise StreamError(f"{directory / MANIFEST}: {error}") from None
    return recording


def picture(directory: Path, recording: Recording, index: int) -> Picture:
    """Frame ``index`` from 0: ``(height, width, 3)`` BGR. Raises ``StreamError``."""
    path = directory / (recording.files % index)
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise StreamError(f"{path}: {error.strerror}") from None
    except BadPicture as error:
        raise StreamError(f"{path}: {error}") from None


def write(directory: Path, recording: Recording, pictures: Iterable[Picture]) -> None:
    """Write ``recording.frames`` pictures, then ``stream.json``, into ``directory``, which must be new or empty.

    If anything fails, interruption included, the files written so far are removed. Raises ``StreamError``.
    """
    recording.check()
    suffix = Path(recording.files).suffix
    written: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Numbered pictures are easily someone's own; nothing is ever overwritten.
        if any(directory.iterdir()):
            raise StreamError(f"{directory} is not empty; name a new directory")
        for index, frame in enumerate(pictures):
            if index == recording.frames:
                raise StreamError(f"more than the {recording.frames} pictures promised")
            done, data = cv2.imencode(suffix, frame, _CODEC[recording.files])
            if not done:
                raise StreamError(f"picture {index} could not be encoded")
            written.append(directory / (recording.files % index))
            written[-1].write_bytes(data.tobytes())
        if len(written) < recording.frames:
            raise StreamError(f"{len(written)} pictures, {recording.frames} promised")
        written.append(directory / (MANIFEST + ".part"))
        written[-1].write_bytes(msgspec.json.encode(recording))
        written[-1].rename(directory / MANIFEST)
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StreamError(f"{directory}: {error.strerror}") from None
        raise
