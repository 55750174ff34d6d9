"""``--save``: the answered frames as a video, with the answers drawn."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np

from edge_agent.aside import Aside
from edge_agent.camera import Answered
from edge_agent.drawing import annotate
from shared.image import Picture, Region

log = logging.getLogger(__name__)

#: What every build of OpenCV encodes by itself, by the file's suffix.
_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
#: Frames a second, where nobody says: of a film, and of a live source, of which that is enough to see what happened.
_FILM, _LIVE = 25.0, 15.0
#: Where a camera was gone for longer than this many seconds, the video shows that it was gone for so long.
_GAP_S = 2.0
#: Bytes that are left free on the disk, so that the video can be finished: an MP4 has its index at the end.
_SPARE = 32 << 20


class Saver:
    """Writes a video on a thread of its own. Of a file every frame is in it; a live source is shown at the pace that
    it had, whatever was left out. What goes wrong with disk or encoder ends the video, not the run."""

    def __init__(self, path: Path, live: bool, fps: float | None = None, region: Region | None = None) -> None:
        """``fps``: of a file's video; ``region``: see ``annotate``. Raises ``ValueError`` for a name that says no
        format, ``OSError`` if there can be no such file."""
        if path.suffix.lower() not in _CODECS:
            raise ValueError(f"a video's name ends in {' or '.join(_CODECS)}")
        path.open("ab").close()  # find out now, not when the first frame is answered
        self._path, self._live, self._region = path, live, region
        self._fps = _LIVE if live else fps or _FILM
        self._writer: cv2.VideoWriter | None = None
        self._size = 0, 0
        self._ended, self._failure = False, ""
        #: When the video began, on the monotonic clock, and how many of its frames are written.
        self._begun, self._written = 0.0, 0
        self._aside = Aside("saver", self._write, waits=not live)

    def show(self, seen: Answered) -> None:
        """From the hot loop."""
        self._aside.show(seen)

    def close(self) -> None:
        """Finish the video, so that it can be played."""
        self._aside.close()
        whole = self._writer is not None
        self._end()
        if whole and not cv2.VideoCapture(str(self._path)).read()[0]:  # OpenCV does not say that a write has failed
            self._failure = "it cannot be played; was the disk full?"
            log.error("%s: %s", self._path, self._failure)

    @property
    def failure(self) -> str:
        """What is not in the video, and why; empty where nothing is missing."""
        why = self._failure or (f"{self._aside.failed} frames failed, see the log" if self._aside.failed else "")
        return f"{self._path}: {why}" if why else ""

    def _write(self, seen: Answered) -> None:
        if self._ended or not (copies := self._due()):
            return
        if shutil.disk_usage(self._path.parent).free < _SPARE:
            self._end(f"the disk has less than {_SPARE >> 20} MB left")
            return
        drawn = annotate(seen.picture, seen.line, self._region)
        writer = self._writer or self._open(drawn)
        if writer is not None:
            drawn = _letterbox(drawn, self._size)
            for _ in range(copies):
                writer.write(drawn)
            self._written += copies

    def _due(self) -> int:
        """How many frames of the video the present one is."""
        if not self._live:
            return 1
        now = time.monotonic()
        if not self._written:
            self._begun = now
        due = int((now - self._begun) * self._fps) + 1 - self._written
        if due > (most := max(1, int(_GAP_S * self._fps))):
            self._begun += (due - most) / self._fps
        return max(0, min(due, most))

    def _open(self, drawn: Picture) -> cv2.VideoWriter | None:
        # Or OpenCV and FFmpeg say on stderr, in many lines, what we say in one.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self._size = drawn.shape[1], drawn.shape[0]
        codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
        writer = cv2.VideoWriter(str(self._path), codec, self._fps, self._size)
        if not writer.isOpened():
            self._end("OpenCV has no encoder for it here")
            return None
        self._writer = writer
        return writer

    def _end(self, why: str = "") -> None:
        """``why``: what ends it early, for a person."""
        if why and not self._ended:
            self._failure = why
            log.error("%s ends after %d frames: %s", self._path, self._written, why)
        self._ended = True
        if self._writer is not None:
            self._writer.release()
            self._writer = None


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
