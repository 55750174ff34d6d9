"""Frames in files: pictures, recorded streams, videos."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cachenet.edge_agent.sources.base import Shot, SourceError
from cachenet.shared.command.file_names import shown
from cachenet.shared.inference.image import BadPicture
from cachenet.shared.media import pictures
from cachenet.shared.media import recording as stream
from cachenet.shared.media.video import BadVideo, Video

log = logging.getLogger(__name__)

#: Files that cannot be read and are named, each on a line; of the others only the number is said.
_NAMED = 10


class FramePacer:
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
    """Pictures in files, each with its label and its time if they are known. A file that cannot be read is skipped,
    named with the reason, and counted."""

    dropped = losses = 0
    error = ""

    def __init__(
        self,
        files: Sequence[Path],
        pace: float | None,
        truth: Sequence[str | None] | None = None,
        times: Sequence[float] | None = None,
    ) -> None:
        """``pace``: frames per second to be played at. ``truth`` and ``times``, in seconds: one for each file."""
        self.broken = 0
        self.fps: float | None = None
        self._files, self._pace = files, FramePacer(pace)
        self._truth, self._times = truth, times

    def __iter__(self) -> Iterator[Shot]:
        try:
            for number, file in enumerate(self._files):
                if self._pace.stopped.is_set():
                    return
                try:
                    picture = pictures.read(file)
                except (OSError, BadPicture) as error:
                    self.broken += 1
                    if self.broken <= _NAMED:
                        log.warning("%s is skipped: %s", shown(file), pictures.reason(error))
                    continue
                if not self._pace.wait():
                    return
                label = None if self._truth is None else self._truth[number]
                yield Shot(picture, label, None if self._times is None else self._times[number])
        finally:
            if self.broken > _NAMED:
                log.warning("%d more files were skipped", self.broken - _NAMED)

    def close(self) -> None:
        self._pace.stopped.set()


class Stream(Files):
    """A recorded stream (see ``shared.media.recording``), with its truth where it is known."""

    def __init__(self, directory: Path, pace: float | None) -> None:
        try:
            recording = stream.read(directory)
        except stream.StreamError as error:
            raise SourceError(str(error)) from None
        files = [directory / (recording.files % number) for number in range(recording.frames)]
        truth = None if recording.truth is None else [recording.labels[label] for label in recording.truth]
        super().__init__(files, pace, truth, recording.seconds())
        self.fps = recording.fps


class VideoFile:
    """A video file. Frames that are damaged are counted, and said once at the end."""

    dropped = losses = 0
    error = ""

    def __init__(self, path: Path, pace: float | None) -> None:
        """Raises ``SourceError``."""
        try:
            self._video = Video(path)
        except (OSError, BadVideo) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise SourceError(f"{shown(path)}: {why}") from None
        self._path, self._pace = path, FramePacer(pace)
        self.fps: float | None = self._video.fps

    @property
    def broken(self) -> int:
        return self._video.broken

    def __iter__(self) -> Iterator[Shot]:
        try:
            for frame in self._video.frames():
                if not self._pace.wait():
                    return
                yield Shot(frame.picture, time=frame.time)
        finally:
            for remark in self._video.remarks():
                log.warning("%s: %s", shown(self._path), remark)

    def close(self) -> None:
        self._pace.stopped.set()
