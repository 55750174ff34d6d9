"""Recording: the frames that were taken to be answered, kept as a stream that any program here plays again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cachenet.edge_agent.sources import Shot, Source
from cachenet.shared.command.file_names import shown
from cachenet.shared.media import recording as stream

log = logging.getLogger(__name__)

#: Pictures of so many pixels or fewer are kept without loss: they cost little, and a model sees every bit of them.
_THUMBNAIL = 96 * 96


class Recorder:
    """A source that keeps what passes. A disk that is full ends the recording, not the run."""

    def __init__(self, source: Source, directory: Path, fps: float | None) -> None:
        """``directory`` must be new or empty; ``fps``: what it shall play at, None for the times that frames have in
        their file, or else the pace that they came at. Raises ``StreamError``."""
        #: What was not recorded, and why; empty while all was.
        self.failure = ""
        self.source, self._directory, self._fps = source, directory, fps
        self._truth: list[str | None] = []
        #: Seconds, by the monotonic clock, and in the source's file where every frame has such a time.
        self._times: list[float] = []
        self._own_times: list[float] = []
        self._open = True
        self._writer: stream.RecordingWriter | None = None
        self._files: stream.Files = "%06d.png"
        stream.RecordingWriter(directory, self._files)  # find out now that it can be

    @property
    def dropped(self) -> int:
        return self.source.dropped

    @property
    def broken(self) -> int:
        return self.source.broken

    @property
    def losses(self) -> int:
        return self.source.losses

    @property
    def fps(self) -> float | None:
        return self.source.fps

    @property
    def error(self) -> str:
        return self.source.error

    def __iter__(self) -> Iterator[Shot]:
        for shot in self.source:
            if self._open:
                self._keep(shot)
            yield shot

    def close(self) -> None:
        self.source.close()

    def finish(self) -> None:
        """Make what was kept a stream. Call it when the frames have ended."""
        if self._writer is None or not self._times:
            return
        known = [truth for truth in self._truth if truth is not None]
        labels = tuple(sorted(set(known)))
        own = self._fps is None and len(self._own_times) == len(self._times)
        times = self._own_times if own else self._times
        passed = times[-1] - times[0]
        fps = self._fps or ((len(times) - 1) / passed if passed > 0 else self.source.fps or 1.0)
        recording = stream.Recording(
            name=shown(self._directory.name),
            seed=None,
            frames=len(self._times),
            fps=round(min(max(fps, 0.1), 1000.0), 6),
            labels=labels,
            truth=tuple(map(labels.index, known)) if len(known) == len(self._truth) else None,
            files=self._files,
            times=tuple(round(time - times[0], 6) for time in times)
            if own and not _steady(times, fps)
            else msgspec.UNSET,
        )
        try:
            self._writer.finish(recording)
        except stream.StreamError as error:
            self.failure = str(error)
            log.error("the recording is not whole: %s", error)

    def _keep(self, shot: Shot) -> None:
        try:
            if self._writer is None:
                height, width = shot.picture.shape[:2]
                self._files = "%06d.png" if height * width <= _THUMBNAIL else "%06d.jpg"
                self._writer = stream.RecordingWriter(self._directory, self._files)
            self._writer.add(shot.picture)
        except stream.StreamError as error:
            log.error("frames are no longer recorded: %s", error)
            self.failure, self._open = str(error), False
            return
        self._times.append(time.monotonic())
        self._truth.append(shot.truth)
        if shot.time is not None:
            self._own_times.append(shot.time)


def _steady(times: list[float], fps: float) -> bool:
    """Whether frames come at a constant rate, but for times that a file rounds."""
    return all(abs(time - times[0] - number / fps) < 0.25 / fps for number, time in enumerate(times))
