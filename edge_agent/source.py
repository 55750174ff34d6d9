"""Where frames come from: a camera, an RTSP stream, a video file, a directory of images, a recorded stream.

Files play every frame, as fast as they are taken or at a given rate. A live source is read by a thread of its own
that keeps only the latest frame and counts what it drops, so that an answer is always about now.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2

from shared import stream
from shared.image import BadPicture, Picture, decode

_PICTURES = {".jpg", ".jpeg", ".png"}
_LAST_FRAME_S = 0.3


#: How long FFmpeg may take to open an address or to read a frame.
_PATIENCE_MS = 5000


class SourceError(Exception):
    """A source that cannot be opened; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture, BGR, and its true label where the source knows it."""

    picture: Picture
    truth: str | None = None


class Source(Protocol):
    """Yields shots until it ends or ``close`` is called from any thread."""

    @property
    def dropped(self) -> int:
        """Live frames that were replaced by a later one before they were taken."""

    @property
    def broken(self) -> int:
        """Files that held no picture."""

    def __iter__(self) -> Iterator[Shot]: ...
    def close(self) -> None: ...


def open_source(spec: str, fps: float | None = None) -> Source:
    """Open ``camera:N``, ``rtsp://...``, a video file, a directory of images or a recorded stream.

    ``fps`` paces files; live sources have a pace of their own. Raises ``SourceError``.
    """
    if spec.startswith("camera:"):
        number = spec.removeprefix("camera:")
        if not (number.isascii() and number.isdigit()):
            raise SourceError(f"{spec!r}: a camera is camera:0, camera:1, ...")
        return Live(_capture(int(number), f"camera {number} cannot be opened; is it plugged in and free?"))
    if spec.startswith(("rtsp://", "rtsps://")):
        return Live(_capture(spec, f"{spec} cannot be opened; check the address, the network and the password"))
    path = Path(spec)
    if path.is_dir():
        if (path / stream.MANIFEST).exists():
            return Stream(path, fps)
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _PICTURES)
        if not files:
            raise SourceError(f"{path} holds no .jpg or .png files")
        return Files([(file, None) for file in files], fps)
    if path.is_file():
        return Video(_capture(str(path), f"{path} is no video that OpenCV can read"), fps)
    raise SourceError(f"{spec!r} is no file, directory, camera:N or rtsp:// address")


def _capture(what: int | str, trouble: str) -> cv2.VideoCapture:
    # Or OpenCV and FFmpeg say on stderr, in many lines, what we say in one.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if isinstance(what, str):
        bounds = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _PATIENCE_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _PATIENCE_MS]
        capture = cv2.VideoCapture(what, cv2.CAP_FFMPEG, bounds)
    else:
        capture = cv2.VideoCapture(what)
    if not capture.isOpened():
        capture.release()
        raise SourceError(trouble)
    return capture


class _Pace:
    """Sleeps so that frames come ``fps`` a second; a late frame does not make the next ones hurry."""

    def __init__(self, fps: float | None) -> None:
        self._period = 1.0 / fps if fps else 0.0
        self._next = -math.inf
        self.stopped = threading.Event()

    def wait(self) -> bool:
        """False when it is time to end."""
        now = time.monotonic()
        if self._period:
            self._next = max(self._next + self._period, now)
            return not self.stopped.wait(self._next - now)
        return not self.stopped.is_set()


class Files:
    """Pictures in files, each with its label if it is known. A broken file is skipped and counted."""

    def __init__(self, files: list[tuple[Path, str | None]], fps: float | None) -> None:
        self.dropped = self.broken = 0
        self._files, self._pace = files, _Pace(fps)

    def __iter__(self) -> Iterator[Shot]:
        for file, truth in self._files:
            if self._pace.stopped.is_set():
                return
            try:
                picture = decode(file.read_bytes())
            except (OSError, BadPicture):
                self.broken += 1
                continue
            if not self._pace.wait():
                return
            yield Shot(picture, truth)

    def close(self) -> None:
        self._pace.stopped.set()


class Stream(Files):
    """A recorded stream (see ``shared.stream``), with its truth where it is known."""

    def __init__(self, directory: Path, fps: float | None) -> None:
        try:
            recording = stream.read(directory)
        except stream.StreamError as error:
            raise SourceError(str(error)) from None
        truth = recording.truth or (None,) * recording.frames
        super().__init__(
            [
                (directory / (recording.files % i), None if label is None else recording.labels[label])
                for i, label in enumerate(truth)
            ],
            fps,
        )


class Video:
    """A video file."""

    def __init__(self, capture: cv2.VideoCapture, fps: float | None) -> None:
        self.dropped = self.broken = 0
        self._capture, self._pace = capture, _Pace(fps)

    def __iter__(self) -> Iterator[Shot]:
        while True:
            got, picture = self._capture.read()
            if not got or not self._pace.wait():
                return
            yield Shot(picture)  # type: ignore[arg-type]

    def close(self) -> None:
        self._pace.stopped.set()


class Live:
    """A camera: only the latest frame counts."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self.dropped = self.broken = 0
        self._capture = capture
        self._latest: Picture | None = None
        self._ended = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Shot]:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._latest is not None or self._ended)
                picture, self._latest = self._latest, None
            if picture is None:
                return
            yield Shot(picture)

    def close(self) -> None:
        with self._news:
            self._ended = True
            self._news.notify()
        # A read that returns while the interpreter ends aborts the process, so wait for it to be the last.
        self._thread.join(_LAST_FRAME_S)

    def _read(self) -> None:
        while not self._ended:
            got, picture = self._capture.read()
            with self._news:
                if not got:
                    self._ended = True
                else:
                    self.dropped += self._latest is not None
                    self._latest = picture  # type: ignore[assignment]
                self._news.notify()
        self._capture.release()
