"""Video files through OpenCV and FFmpeg: every frame, upright, in its own size and with its time.

A failed read is not the end: FFmpeg fails once for each damaged frame. A file is passed to FFmpeg as a descriptor,
because FFmpeg reads a protocol in ``2026-11-28T10:20:30.mp4``, and OpenCV crashes on names that are not UTF-8.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cachenet.shared.command.errors import UserError
from cachenet.shared.command.regular_files import open_regular
from cachenet.shared.inference.image import Picture

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

#: Consecutive failed reads after which a video has ended. At a video's end they take milliseconds together.
_END = 1000
#: Compressed frames that are read ahead of the decoder, which delays some.
_AHEAD = 64
#: Most frames that a decoder drops without a failed read.
_DROPPED = 8
#: Frame rate of a file without a plausible one, frames per second.
_DEFAULT_FPS = 25.0
#: Least time between the last frame and the end in the header of a truncated video, seconds.
_CUT_SHORT_S = 0.5


class BadVideo(UserError):
    """A file that OpenCV cannot read as a video. The message is one line without the file's name."""


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One frame: its picture ``(height, width, 3)`` BGR, its time in the file, seconds, increasing, and its number."""

    picture: Picture
    time: float
    number: int


class Video:
    """A video file, read once.

    Attributes:
        fps: Frame rate, frames per second; that of the first frames where the rate varies.
        broken: Number of frames that cannot be decoded, or are missing at the end of a truncated MP4 or AVI.

    Example:
        video = Video(Path("clip.mp4"))
        for frame in video.frames():
            show(frame.picture, frame.time)
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            BadVideo: OpenCV cannot read the file.
            OSError: The file does not exist or is not a regular file.
        """
        file = open_regular(path)
        try:
            # Only MP4 and AVI state their number of frames; OpenCV estimates it for others.
            head = os.pread(file, 12, 0)
            self._counted = head[4:8] == b"ftyp" or (head[:4] == b"RIFF" and head[8:] == b"AVI ")
            self._capture = _open(file)
            self._packets = _Packets(_open(file, raw=True))
        finally:
            os.close(file)
        if not self._capture.isOpened():
            self.close()
            raise BadVideo("no video that OpenCV can read" if head else "the file is empty")
        self._turned = int(self._capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 180 == 90
        self.fps = self._packets.fps or _plausible(self._capture.get(cv2.CAP_PROP_FPS)) or _DEFAULT_FPS
        self.broken = 0
        self._resized: dict[tuple[int, int], int] = {}

    def frames(self, every: int = 1) -> Iterator[VideoFrame]:
        """Yield each frame whose number is a multiple of ``every`` and that can be decoded."""
        clock = _Clock(1 / self.fps)
        reads = decoded = failed = 0  # failed: consecutive reads
        try:
            while failed < _END:
                number, reads, failed = reads, reads + 1, failed + 1
                if not self._grab():
                    continue
                time_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
                time_s, size = clock.read(time_ms / 1000), self._packets.size_at(number, time_ms)
                picture = None if number % every else self._retrieve()
                if picture is None and number % every == 0:
                    continue
                self.broken, failed, decoded = self.broken + failed - 1, 0, decoded + 1
                if picture is not None:
                    yield VideoFrame(self._shaped(picture, size), time_s, number)
            self.broken += self._missing(decoded, clock.last)
        finally:
            self.close()

    def close(self) -> None:
        self._capture.release()
        self._packets.close()

    def remarks(self) -> list[str]:
        """Remarks for the user on a file that has been read."""
        remarks = [f"{self.broken} frames are damaged or missing"] if self.broken else []
        if self._resized:
            count, sizes = sum(self._resized.values()), ", ".join(f"{w}x{h}" for w, h in self._resized)
            remarks.append(
                f"its picture size changes: {count} frames are of {sizes}, with the detail of the first size"
            )
        return remarks

    def _grab(self) -> bool:
        try:
            return self._capture.grab()
        except cv2.error:
            return False

    def _retrieve(self) -> Picture | None:
        try:
            decoded, picture = self._capture.retrieve()
        except cv2.error:
            return None
        return np.asarray(picture, np.uint8) if decoded else None

    def _shaped(self, picture: Picture, size: tuple[int, int] | None) -> Picture:
        """Undo OpenCV's scaling of every frame to the first one's size."""
        if size is None:
            return picture
        size = size[::-1] if self._turned else size
        self._resized[size] = self._resized.get(size, 0) + 1
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]

    def _missing(self, decoded: int, last_s: float) -> int:
        """Number of frames between the last one and the end in the header."""
        count, fps = self._capture.get(cv2.CAP_PROP_FRAME_COUNT), _plausible(self._capture.get(cv2.CAP_PROP_FPS))
        if not self._counted or not fps or not 0 < count < 1e9:
            return 0
        missing_s = count / fps - (last_s + 1 / self.fps)
        # A video that was trimmed without encoding still has the compressed frames that are not shown.
        if missing_s <= _CUT_SHORT_S or self._packets.remaining() >= count:
            return 0
        return min(round(missing_s * self.fps), max(0, round(count) - decoded - self.broken))


class _Clock:
    """Makes the times of frames increase. Some frames have none (0), and joined recordings start again at 0."""

    def __init__(self, step_s: float) -> None:
        self._step_s, self._offset_s = step_s, 0.0
        self.last = -step_s
        self._started = False

    def read(self, time_s: float) -> float:
        if self._started and time_s + self._offset_s <= self.last:
            self._offset_s = self.last + self._step_s - time_s
        self._started, self.last = True, time_s + self._offset_s
        return self.last


class _Packets:
    """The compressed frames of a video, read ahead of the decoder: their times, and the size of each key frame.

    OpenCV's decoder does not report changes of the size.
    """

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self._read = self._good = 0
        self._first: tuple[int, int] | None = None
        self._size: tuple[int, int] | None = None
        #: Changes ahead: number of the compressed frame, its time in milliseconds, and the new size.
        self._changes: deque[tuple[int, float, tuple[int, int]]] = deque()
        self._sized = True
        times: list[float] = []
        while self._read < _AHEAD:
            if self._next():
                times.append(self._capture.get(cv2.CAP_PROP_POS_MSEC))
        self.fps = _rate(times)

    def size_at(self, number: int, time_ms: float) -> tuple[int, int] | None:
        """Width and height of the decoded frame ``number``; None for the size of the first frame."""
        while self._read <= number + _AHEAD:
            self._next()
        while self._changes:
            at, when_ms, size = self._changes[0]
            if number < at and not (number >= at - _DROPPED and abs(when_ms - time_ms) < 1):
                break
            self._size = size if size != self._first else None
            self._changes.popleft()
        return self._size

    def remaining(self) -> int:
        """Read to the end; return the number of compressed frames."""
        failed = 0
        while failed < _END:
            failed = 0 if self._next() else failed + 1
        return self._good

    def close(self) -> None:
        self._capture.release()

    def _next(self) -> bool:
        self._read += 1
        if not self._capture.grab():
            return False
        self._good += 1
        if self._sized and self._capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME):
            self._read_size(self._capture.retrieve()[1])
        return True

    def _read_size(self, packet: object) -> None:
        """Read the size of a key frame, by FFmpeg, as a file of its own."""
        file = os.memfd_create("key frame", os.MFD_CLOEXEC)
        try:
            os.write(file, np.asarray(packet, np.uint8).tobytes())
            alone = _open(file)
        finally:
            os.close(file)
        width, height = (int(alone.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        alone.release()
        if width <= 0 or height <= 0:
            self._sized = False  # the key frames of this format cannot be read alone
            return
        latest = self._changes[-1][2] if self._changes else self._size or self._first
        self._first = self._first or (width, height)
        if latest is not None and latest != (width, height):
            when_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
            self._changes.append((self._read - 1, when_ms, (width, height)))


def _open(file: int, raw: bool = False) -> cv2.VideoCapture:
    """Open a descriptor for decoded frames, or for compressed ones (``raw``)."""
    options = [cv2.CAP_PROP_N_THREADS, 1]
    capture = cv2.VideoCapture(f"/proc/self/fd/{file}", cv2.CAP_FFMPEG, options)
    if raw:
        capture.set(cv2.CAP_PROP_FORMAT, -1)
    return capture


def _rate(times_ms: list[float]) -> float | None:
    """Typical frame rate, frames per second. Steps are averaged: many formats round times to milliseconds."""
    steps = np.diff(np.sort(times_ms))
    steps = steps[steps > 0]
    if not len(steps):
        return None
    usual = steps[np.abs(steps - np.median(steps)) <= np.median(steps) / 4]
    return _plausible(round(1000 / float(usual.mean()), 2))


def _plausible(fps: float) -> float | None:
    return fps if 0.001 <= fps <= 1000 else None
