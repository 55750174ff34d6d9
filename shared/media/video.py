"""Video files through OpenCV and FFmpeg: every frame, upright, in its true shape and with its time in the file.

A read that fails is no end: FFmpeg fails once for each damaged frame. A path reaches FFmpeg as a file descriptor, for
FFmpeg takes ``2026-11-28T10:20:30.mp4`` for a protocol, and OpenCV crashes on bytes that are no UTF-8.
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

#: Reads in a row that fail, after which a video has ended. At a video's end they take milliseconds together.
_END = 1000
#: Compressed frames that are looked at ahead of the decoder, which holds some back.
_AHEAD = 64
#: By how many frames a decoder may be behind its input without a failed read: frames that it dropped in silence.
_DROPPED = 8
#: Frame rate where the file says none that can be, frames per second.
_DEFAULT_FPS = 25.0
#: A video whose last frame is more than this many seconds before the end that its header names is cut short.
_CUT_SHORT_S = 0.5


class BadVideo(UserError):
    """A file that is no video that OpenCV can read; the message, a line without the file's name, says why."""


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One frame of a video. ``picture``: ``(height, width, 3)`` BGR. ``time``: seconds, in the file; rising."""

    picture: Picture
    time: float


class Video:
    """A video file, to be played once.

    Attributes:
        fps: Frames per second, of the frames at the file's beginning where the rate varies.
        broken: Frames that cannot be decoded, and those missing at the end of an MP4 or AVI that is cut short.
    """

    def __init__(self, path: Path) -> None:
        """Raises ``BadVideo``, and ``OSError`` for what is not there or no regular file."""
        file = open_regular(path)
        try:
            # Only these say how many frames they have; of others OpenCV makes a guess.
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
        """Every ``every``\\ th frame that can be decoded, from the first."""
        clock = _Clock(1 / self.fps)
        reads = whole = failed = 0  # failed: the last ones in a row
        try:
            while failed < _END:
                place, reads, failed = reads, reads + 1, failed + 1
                if not self._grab():
                    continue
                time_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
                time_s, size = clock.read(time_ms / 1000), self._packets.size_at(place, time_ms)
                picture = None if place % every else self._retrieve()
                if picture is None and place % every == 0:
                    continue
                self.broken, failed, whole = self.broken + failed - 1, 0, whole + 1
                if picture is not None:
                    yield VideoFrame(self._shaped(picture, size), time_s)
            self.broken += self._missing(whole, clock.last)
        finally:
            self.close()

    def close(self) -> None:
        self._capture.release()
        self._packets.close()

    def remarks(self) -> list[str]:
        """What a user should be told of this file, once it was played."""
        told = [f"{self.broken} frames are damaged or missing"] if self.broken else []
        if self._resized:
            count, sizes = sum(self._resized.values()), ", ".join(f"{w}x{h}" for w, h in self._resized)
            told.append(f"its picture size changes: {count} frames are of {sizes}, with the detail of the first size")
        return told

    def _grab(self) -> bool:
        try:
            return self._capture.grab()
        except cv2.error:
            return False

    def _retrieve(self) -> Picture | None:
        try:
            there, picture = self._capture.retrieve()
        except cv2.error:
            return None
        return np.asarray(picture, np.uint8) if there else None

    def _shaped(self, picture: Picture, size: tuple[int, int] | None) -> Picture:
        """OpenCV scales every frame to the first one's size without a word; undo that."""
        if size is None:
            return picture
        size = size[::-1] if self._turned else size
        self._resized[size] = self._resized.get(size, 0) + 1
        return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]

    def _missing(self, whole: int, last_s: float) -> int:
        """Frames between the last one and the end that the header names."""
        count, fps = self._capture.get(cv2.CAP_PROP_FRAME_COUNT), _plausible(self._capture.get(cv2.CAP_PROP_FPS))
        if not self._counted or not fps or not 0 < count < 1e9:
            return 0
        missing_s = count / fps - (last_s + 1 / self.fps)
        # A video that was trimmed without encoding it anew still has the compressed frames that are not shown.
        if missing_s <= _CUT_SHORT_S or self._packets.remaining() >= count:
            return 0
        return min(round(missing_s * self.fps), max(0, round(count) - whole - self.broken))


class _Clock:
    """Times of frames as FFmpeg has them, made to rise: some frames have none (0), and those of recordings that were
    joined begin anew."""

    def __init__(self, step_s: float) -> None:
        self._step_s, self._offset_s = step_s, 0.0
        self.last = -step_s
        self._begun = False

    def read(self, time_s: float) -> float:
        if self._begun and time_s + self._offset_s <= self.last:
            self._offset_s = self.last + self._step_s - time_s
        self._begun, self.last = True, time_s + self._offset_s
        return self.last


class _Packets:
    """The compressed frames of a video, read a little ahead of the decoder: their times, and the size in pixels that
    each key frame says it has, which OpenCV's decoder does not tell."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self._read = self._good = 0
        self._first: tuple[int, int] | None = None
        self._size: tuple[int, int] | None = None
        #: Coming changes: at which compressed frame, its time in milliseconds, and the size from there on.
        self._changes: deque[tuple[int, float, tuple[int, int]]] = deque()
        self._sized = True
        times: list[float] = []
        while self._read < _AHEAD:
            if self._next():
                times.append(self._capture.get(cv2.CAP_PROP_POS_MSEC))
        self.fps = _rate(times)

    def size_at(self, place: int, time_ms: float) -> tuple[int, int] | None:
        """Width and height of the decoded frame number ``place``; None where they are the first frame's."""
        while self._read <= place + _AHEAD:
            self._next()
        while self._changes:
            at, when_ms, size = self._changes[0]
            if place < at and not (place >= at - _DROPPED and abs(when_ms - time_ms) < 1):
                break
            self._size = size if size != self._first else None
            self._changes.popleft()
        return self._size

    def remaining(self) -> int:
        """Read to the end; how many compressed frames there are."""
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
            self._look(self._capture.retrieve()[1])
        return True

    def _look(self, packet: object) -> None:
        """FFmpeg reads the size out of a key frame that it is given as a file of its own."""
        file = os.memfd_create("key frame", os.MFD_CLOEXEC)
        try:
            os.write(file, np.asarray(packet, np.uint8).tobytes())
            alone = _open(file)
        finally:
            os.close(file)
        width, height = (int(alone.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        alone.release()
        if width <= 0 or height <= 0:
            self._sized = False  # a format whose key frames cannot be read alone
            return
        latest = self._changes[-1][2] if self._changes else self._size or self._first
        self._first = self._first or (width, height)
        if latest is not None and latest != (width, height):
            when_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)
            self._changes.append((self._read - 1, when_ms, (width, height)))


def _open(file: int, raw: bool = False) -> cv2.VideoCapture:
    """``raw``: give out compressed frames."""
    options = [cv2.CAP_PROP_N_THREADS, 1]
    capture = cv2.VideoCapture(f"/proc/self/fd/{file}", cv2.CAP_FFMPEG, options)
    if raw:
        capture.set(cv2.CAP_PROP_FORMAT, -1)
    return capture


def _rate(times_ms: list[float]) -> float | None:
    """Frames per second of most of these frames. Many formats round times to milliseconds, so steps are averaged."""
    steps = np.diff(np.sort(times_ms))
    steps = steps[steps > 0]
    if not len(steps):
        return None
    usual = steps[np.abs(steps - np.median(steps)) <= np.median(steps) / 4]
    return _plausible(round(1000 / float(usual.mean()), 2))


def _plausible(fps: float) -> float | None:
    return fps if 0.001 <= fps <= 1000 else None
