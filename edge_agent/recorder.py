"""Recording: the frames that were taken to be answered, kept as a stream that any program here plays again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from edge_agent.source import Shot, Source
from shared import stream

log = logging.getLogger(__name__)

#: Pictures of so many pixels or fewer are kept without loss: they cost little, and a model sees every bit of them.
_THUMBNAIL = 96 * 96


class Recorder:
    """A source that keeps what passes. A disk that is full ends the recording, not the run."""

    def __init__(self, source: Source, directory: Path, fps: float | None) -> None:
        """``directory`` must be new or empty; ``fps``: what it shall play at, None for the pace that frames came at.
        Raises ``StreamError``."""
        #: What was not recorded, and why; empty while all was.
        self.failure = ""
        self.source, self._directory, self._fps = source, directory, fps
        self._truth: list[str | None] = []
        self._times: list[float] = []
        self._open = True
        self._writer: stream.Writer | None = None
        self._files: stream.Files = "%06d.png"
        stream.Writer(directory, self._files)  # find out now that it can be

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
    def trouble(self) -> str:
        return self.source.trouble

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
        passed = self._times[-1] - self._times[0]
        fps = self._fps or ((len(self._times) - 1) / passed if passed > 0 else 1.0)
        recording = stream.Recording(
            name=self._directory.name,
            seed=None,
            frames=len(self._times),
            fps=min(max(fps, 0.1), 1000.0),
            labels=labels,
            truth=tuple(map(labels.index, known)) if len(known) == len(self._truth) else None,
            files=self._files,
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
                self._writer = stream.Writer(self._directory, self._files)
            self._writer.add(shot.picture)
        except stream.StreamError as error:
            log.error("frames are no longer recorded: %s", error)
            self.failure, self._open = str(error), False
            return
        self._times.append(time.monotonic())
        self._truth.append(shot.truth)
