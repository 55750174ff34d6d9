"""File sources: pictures, recorded streams, videos."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cachenet.edge_agent.sources.base import SourceError, SourceFrame
from cachenet.shared.command.file_names import shown
from cachenet.shared.inference.image import BadPicture
from cachenet.shared.media import pictures
from cachenet.shared.media import recording as stream
from cachenet.shared.media.video import BadVideo, Video

log = logging.getLogger(__name__)

#: Number of unreadable files that are logged by name; further ones are only counted.
_MAX_LOGGED = 10


class FramePacer:
    """Limits the frame rate to ``fps``. Time lost by a late frame is not made up."""

    def __init__(self, fps: float | None) -> None:
        self._period = 1.0 / fps if fps else 0.0
        self._next = -math.inf
        self.stopped = threading.Event()

    def wait(self) -> bool:
        """Wait for the time of the next frame; False after ``stopped`` was set."""
        now = time.monotonic()
        if self._period:
            self._next = max(self._next + self._period, now)
            return not self.stopped.wait(self._next - now)
        return not self.stopped.is_set()


class Files:
    """Pictures in files. An unreadable file is logged, skipped and counted."""

    dropped = losses = 0
    error = ""

    def __init__(
        self,
        files: Sequence[Path],
        fps: float | None,
        truth: Sequence[str | None] | None = None,
        times: Sequence[float] | None = None,
    ) -> None:
        """
        Args:
            fps: Frame rate, frames per second; None: as fast as frames are read.
            truth: True label of each file.
            times: Time of each file, seconds.
        """
        self.broken = 0
        self.fps: float | None = None
        self._files, self._pacer = files, FramePacer(fps)
        self._truth, self._times = truth, times

    def __iter__(self) -> Iterator[SourceFrame]:
        try:
            for number, file in enumerate(self._files):
                if self._pacer.stopped.is_set():
                    return
                try:
                    picture = pictures.read(file)
                except (OSError, BadPicture) as error:
                    self.broken += 1
                    if self.broken <= _MAX_LOGGED:
                        log.warning("%s is skipped: %s", shown(file), pictures.reason(error))
                    continue
                if not self._pacer.wait():
                    return
                label = None if self._truth is None else self._truth[number]
                yield SourceFrame(picture, label, None if self._times is None else self._times[number])
        finally:
            if self.broken > _MAX_LOGGED:
                log.warning("%d more files were skipped", self.broken - _MAX_LOGGED)

    def close(self) -> None:
        self._pacer.stopped.set()


class Stream(Files):
    """A recorded stream (see ``shared.media.recording``), with its true labels if known."""

    def __init__(self, directory: Path, fps: float | None) -> None:
        try:
            recording = stream.read(directory)
        except stream.StreamError as error:
            raise SourceError(str(error)) from None
        files = [directory / (recording.files % number) for number in range(recording.frames)]
        truth = None if recording.truth is None else [recording.labels[label] for label in recording.truth]
        super().__init__(files, fps, truth, recording.seconds())
        self.fps = recording.fps


class VideoFile:
    """A video file. Damaged frames are counted and logged at the end."""

    dropped = losses = 0
    error = ""

    def __init__(self, path: Path, fps: float | None) -> None:
        """Raises ``SourceError``."""
        try:
            self._video = Video(path)
        except (OSError, BadVideo) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise SourceError(f"{shown(path)}: {reason}") from None
        self._path, self._pacer = path, FramePacer(fps)
        self.fps: float | None = self._video.fps

    @property
    def broken(self) -> int:
        return self._video.broken

    def __iter__(self) -> Iterator[SourceFrame]:
        try:
            for frame in self._video.frames():
                if not self._pacer.wait():
                    return
                yield SourceFrame(frame.picture, time=frame.time)
        finally:
            for remark in self._video.remarks():
                log.warning("%s: %s", shown(self._path), remark)

    def close(self) -> None:
        self._pacer.stopped.set()
