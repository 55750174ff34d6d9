"""``--save``: the answered frames as a video, with the answers drawn."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from cachenet.edge_agent.camera import Answered
from cachenet.edge_agent.outputs.drawing import annotate
from cachenet.edge_agent.outputs.frame_worker import FrameWorker
from cachenet.shared.command.file_names import shown
from cachenet.shared.inference.image import Picture, Region

log = logging.getLogger(__name__)

#: What every build of OpenCV encodes by itself, by the file's suffix.
_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
#: Frames a second, where nobody says: of a film, and of a live source, of which that is enough to see what happened.
_FILM, _LIVE = 25.0, 15.0
#: Where a camera was gone for longer than this many seconds, the video shows that it was gone for so long.
_GAP_S = 2.0
#: The same of a file, in which a frame may well last this many seconds.
_FILE_GAP_S = 60.0
#: Times in a file are rounded: a frame that is due so soon, as a share of a frame, is due.
_ROUNDED = 0.5
#: Where frames of a file come faster than the video's rate, by how many seconds the video may be late until frames are
#: left out.
_LATE_S = 1.0
#: Bytes that are left free on the disk, so that the video can be finished: an MP4 has its index at the end.
_SPARE = 32 << 20


class VideoSaver:
    """Writes a video on a thread of its own. Of a file every frame is in it, for as long as in the file; a live source
    is shown at the pace that it had, whatever was left out. What goes wrong with disk or encoder ends the video, not
    the run."""

    def __init__(
        self,
        path: Path,
        live: bool,
        fps: float | None = None,
        region: Region | None = None,
        own_times: bool = False,
    ) -> None:
        """``fps``: of a file's video; ``region``: see ``annotate``. ``own_times``: a frame is shown for as long as in
        the file that it is from, rather than for ``1 / fps``. Raises ``ValueError`` for a name that says no format,
        ``OSError`` if there can be no such file."""
        if path.suffix.lower() not in _CODECS:
            raise ValueError(f"a video's name ends in {' or '.join(_CODECS)}")
        path.open("ab").close()  # find out now, not when the first frame is answered
        self._path, self._live, self._region, self._own_times = path, live, region, own_times
        self._fps = _LIVE if live else fps or _FILM
        self._writer: cv2.VideoWriter | None = None
        self._size = 0, 0
        self._ended, self._failure = False, ""
        #: When the video began, on the monotonic clock or in the file, in seconds, and how many of its frames are
        #: written.
        self._begun, self._written = 0.0, 0
        #: The frame that is shown until the time of the next one.
        self._shown: Picture | None = None
        self._worker = FrameWorker("saver", self._write, waits=not live)

    def on_frame(self, answered: Answered) -> None:
        """From the hot loop."""
        self._worker.on_frame(answered)

    def close(self) -> None:
        """Finish the video, so that it can be played."""
        self._worker.close()
        whole = self._writer is not None
        self._end()
        if whole and not self._plays():
            self._failure = "it cannot be played; was the disk full?"
            log.error("%s: %s", shown(self._path), self._failure)

    @property
    def failure(self) -> str:
        """What is not in the video, and why; empty where nothing is missing."""
        why = self._failure or (f"{self._aside.failed} frames failed, see the log" if self._worker.failed else "")
        return f"{shown(self._path)}: {why}" if why else ""

    def _plays(self) -> bool:
        """Whether the video can be read: OpenCV does not say that a write has failed."""
        with _plain(self._path) as path:
            return cv2.VideoCapture(path).read()[0]

    def _write(self, answered: Answered) -> None:
        if self._ended:
            return
        repeats, copies = self._due(answered.time)
        if not repeats and not copies:
            return
        if shutil.disk_usage(self._path.parent).free < _SPARE:
            self._end(f"the disk has less than {_SPARE >> 20} MB left")
            return
        drawn = annotate(answered.picture, answered.line, self._region)
        writer = self._writer or self._open(drawn)
        if writer is not None:
            drawn = _letterbox(drawn, self._size)
            for _ in range(repeats if self._shown is not None else 0):
                writer.write(self._shown)  # type: ignore[arg-type]
            for _ in range(copies):
                writer.write(drawn)
            self._shown = drawn
            self._written += repeats + copies

    def _due(self, file_s: float | None) -> tuple[int, int]:
        """For how many frames of the video the frame before goes on to be shown, and how many the present one is.
        ``file_s``: the time of the present one in its file."""
        if self._live:
            due = self._passed(time.monotonic(), _GAP_S) + 1
            return 0, max(0, due)
        if not self._own_times or file_s is None:
            return 0, 1
        ahead = self._passed(file_s, _FILE_GAP_S)
        return max(0, ahead), int(ahead > -_LATE_S * self._fps)

    def _passed(self, now: float, most_s: float) -> int:
        """How many frames of the video are due until ``now``, in seconds, beyond those written. Of a gap of more than
        ``most_s`` no more is shown."""
        if not self._written:
            self._begun = now
        due = int((now - self._begun) * self._fps + _ROUNDED) - self._written
        if due > (most := int(most_s * self._fps)):
            self._begun += (due - most) / self._fps
            due = most
        return due

    def _open(self, drawn: Picture) -> cv2.VideoWriter | None:
        # Or OpenCV and FFmpeg say on stderr, in many lines, what we say in one.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self._size = drawn.shape[1], drawn.shape[0]
        codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
        with _plain(self._path) as path:
            writer = cv2.VideoWriter(path, codec, self._fps, self._size)
        if not writer.isOpened():
            self._end("OpenCV has no encoder for it here")
            return None
        self._writer = writer
        return writer

    def _end(self, why: str = "") -> None:
        """``why``: what ends it early, for a person."""
        if why and not self._ended:
            self._failure = why
            log.error("%s ends after %d frames: %s", shown(self._path), self._written, why)
        self._ended = True
        if self._writer is not None:
            self._writer.release()
            self._writer = None


@contextmanager
def _plain(path: Path) -> Iterator[str]:
    """``path`` as OpenCV and FFmpeg take it: absolute, or what is before a colon would be a protocol, and UTF-8, or
    OpenCV would crash. Where its bytes are no UTF-8, this is a link to it."""
    absolute = str(path.absolute())
    try:
        absolute.encode()
        yield absolute
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as directory:
            link = Path(directory, "video").with_suffix(path.suffix)
            link.symlink_to(absolute)
            yield str(link)


def _letterbox(picture: Picture, size: tuple[int, int]) -> Picture:
    """``picture`` whole, within ``size`` (width, height): pictures of a directory need not be alike."""
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    factor = min(size[0] / width, size[1] / height)
    inner = max(1, round(width * factor)), max(1, round(height * factor))
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    boxed = np.zeros((size[1], size[0], 3), np.uint8)
    boxed[top : top + inner[1], left : left + inner[0]] = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
    return boxed
