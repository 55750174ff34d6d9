"""Video of the answered frames with drawn answers, for ``--save``."""

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

from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.outputs.drawing import annotate
from cachenet.edge_agent.outputs.frame_worker import FrameWorker
from cachenet.edge_agent.outputs.report import WHOLE_PICTURE, View
from cachenet.shared.command.file_names import shown
from cachenet.shared.inference.image import Picture

log = logging.getLogger(__name__)

#: Codecs that every build of OpenCV contains, by file suffix.
_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
#: Frame rate of a video of a file without a rate, frames per second.
_FILE_FPS = 25.0
#: Frame rate of a video of a live source, frames per second.
_LIVE_FPS = 15.0
#: Longest time for which the last frame before a loss of a camera is shown, seconds.
_MAX_GAP_S = 2.0
#: Longest time for which one frame of a file is shown, seconds.
_MAX_FILE_GAP_S = 60.0
#: Rounding of frame times in a file, as a share of a frame's duration.
_ROUNDING = 0.5
#: Longest delay of the video behind a file with a higher frame rate, before frames are left out, seconds.
_MAX_DELAY_S = 1.0
#: Bytes that stay free on the disk, so that the video can be finished: an MP4 file has its index at the end.
_RESERVED_BYTES = 32 << 20


class VideoSaver:
    """Writes a video in another thread.

    The video of a file has every frame, for as long as in the file. The video of a live source has the source's pace,
    whatever frames were dropped. An error of disk or encoder ends the video, not the run.
    """

    def __init__(
        self,
        path: Path,
        live: bool,
        fps: float | None = None,
        view: View = WHOLE_PICTURE,
        file_times: bool = False,
    ) -> None:
        """
        Args:
            fps: Frame rate of the video of a file, frames per second.
            view: See ``annotate``.
            file_times: Whether a frame is shown for as long as in its file, rather than for ``1 / fps``.

        Raises:
            ValueError: The suffix of ``path`` names no video format.
            OSError: The file cannot be created.
        """
        if path.suffix.lower() not in _CODECS:
            raise ValueError(f"a video's name ends in {' or '.join(_CODECS)}")
        path.open("ab").close()  # an error must appear now, not at the first frame
        self._path, self._live, self._view, self._file_times = path, live, view, file_times
        self._fps = _LIVE_FPS if live else fps or _FILE_FPS
        self._writer: cv2.VideoWriter | None = None
        self._size = 0, 0
        self._ended, self._failure = False, ""
        #: Start of the video, on the monotonic clock or in the file, seconds.
        self._begun = 0.0
        #: Number of written frames.
        self._written = 0
        #: The last written frame.
        self._shown: Picture | None = None
        self._worker = FrameWorker("saver", self._write, blocks=not live)

    def on_frame(self, answered: AnsweredFrame) -> None:
        """Queue a frame; called by the hot loop."""
        if answered.lines:
            self._worker.on_frame(answered)

    def close(self) -> None:
        """Finish the video."""
        self._worker.close()
        has_frames = self._writer is not None
        self._end()
        if has_frames and not self._is_readable():
            self._failure = "it cannot be read; was the disk full?"
            log.error("%s: %s", shown(self._path), self._failure)

    @property
    def failure(self) -> str:
        """Why the video is incomplete; empty if it is complete."""
        reason = self._failure or (f"{self._worker.failed} frames failed, see the log" if self._worker.failed else "")
        return f"{shown(self._path)}: {reason}" if reason else ""

    def _is_readable(self) -> bool:
        """Whether the video can be read: OpenCV does not report failed writes."""
        with _ascii_safe(self._path) as path:
            return cv2.VideoCapture(path).read()[0]

    def _write(self, answered: AnsweredFrame) -> None:
        if self._ended:
            return
        repeats, copies = self._due(answered.time)
        if not repeats and not copies:
            return
        if shutil.disk_usage(self._path.parent).free < _RESERVED_BYTES:
            self._end(f"the disk has less than {_RESERVED_BYTES >> 20} MB left")
            return
        drawn = annotate(answered.picture, answered.lines, self._view)
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
        """Numbers of video frames that repeat the last picture, and that show the present one.

        Args:
            file_s: Time of the present picture in its file, seconds.
        """
        if self._live:
            due = self._due_frames(time.monotonic(), _MAX_GAP_S) + 1
            return 0, max(0, due)
        if not self._file_times or file_s is None:
            return 0, 1
        ahead = self._due_frames(file_s, _MAX_FILE_GAP_S)
        return max(0, ahead), int(ahead > -_MAX_DELAY_S * self._fps)

    def _due_frames(self, now: float, max_gap_s: float) -> int:
        """Number of video frames due at ``now``, seconds, beyond those written; at most ``max_gap_s`` of them."""
        if not self._written:
            self._begun = now
        due = int((now - self._begun) * self._fps + _ROUNDING) - self._written
        if due > (limit := int(max_gap_s * self._fps)):
            self._begun += (due - limit) / self._fps
            due = limit
        return due

    def _open(self, drawn: Picture) -> cv2.VideoWriter | None:
        # Without these, OpenCV and FFmpeg write many lines to standard error about each failure.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self._size = drawn.shape[1], drawn.shape[0]
        codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
        with _ascii_safe(self._path) as path:
            writer = cv2.VideoWriter(path, codec, self._fps, self._size)
        if not writer.isOpened():
            self._end("OpenCV has no encoder for it here")
            return None
        self._writer = writer
        return writer

    def _end(self, reason: str = "") -> None:
        """Close the video. ``reason``: why it ends early."""
        if reason and not self._ended:
            self._failure = reason
            log.error("%s ends after %d frames: %s", shown(self._path), self._written, reason)
        self._ended = True
        if self._writer is not None:
            self._writer.release()
            self._writer = None


@contextmanager
def _ascii_safe(path: Path) -> Iterator[str]:
    """``path`` as OpenCV and FFmpeg accept it: absolute, so that a colon names no protocol, and valid UTF-8, without
    which OpenCV crashes. A path with other bytes is replaced by a temporary link."""
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
    """``picture`` scaled into ``size`` (width, height) with black bars; pictures of a directory may differ in size."""
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    factor = min(size[0] / width, size[1] / height)
    inner = max(1, round(width * factor)), max(1, round(height * factor))
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    boxed = np.zeros((size[1], size[0], 3), np.uint8)
    boxed[top : top + inner[1], left : left + inner[0]] = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA)
    return boxed
