"""Frames in files: pictures, recorded streams, videos."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from edge_agent.source.base import Shot, SourceError
from edge_agent.source.devices import Capture
from shared import stream
from shared.image import BadPicture, decode


class Pace:
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

    dropped = losses = 0
    trouble = ""

    def __init__(self, files: list[tuple[Path, str | None]], fps: float | None) -> None:
        self.broken = 0
        self._files, self._pace = files, Pace(fps)

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

    dropped = broken = losses = 0
    trouble = ""

    def __init__(self, capture: Capture, fps: float | None) -> None:
        self._capture, self._pace = capture, Pace(fps)

    def __iter__(self) -> Iterator[Shot]:
        while True:
            _, picture = self._capture.read()
            if picture is None or not self._pace.wait():
                return
            yield Shot(picture)

    def close(self) -> None:
        self._pace.stopped.set()
