"""Recording of the answered frames as a stream that other commands can read."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cachenet.edge_agent.sources import Source, SourceFrame
from cachenet.shared.command.file_names import shown
from cachenet.shared.media import recording as stream

log = logging.getLogger(__name__)

#: Largest size of a picture that is saved without loss, pixels. Models see every pixel of such small pictures.
_MAX_LOSSLESS = 96 * 96


class Recorder:
    """A source that records the frames of another. A full disk ends the recording, not the run."""

    def __init__(self, source: Source, directory: Path, fps: float | None) -> None:
        """
        Args:
            directory: New or empty directory.
            fps: Frame rate of the recording; None: the times of the frames in their file, or else of their arrival.

        Raises:
            StreamError: The directory cannot be used.
        """
        #: Why the recording is incomplete; empty if it is complete.
        self.failure = ""
        self.source, self._directory, self._fps = source, directory, fps
        self._truth: list[str | None] = []
        #: Arrival time of each frame on the monotonic clock, seconds.
        self._times: list[float] = []
        #: Time of each frame in its file, seconds; shorter than ``_times`` if some are unknown.
        self._file_times: list[float] = []
        self._open = True
        self._writer: stream.RecordingWriter | None = None
        self._files: stream.Files = "%06d.png"
        stream.RecordingWriter(directory, self._files)  # an error must appear now

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

    def __iter__(self) -> Iterator[SourceFrame]:
        for shot in self.source:
            if self._open:
                self._record(shot)
            yield shot

    def close(self) -> None:
        self.source.close()

    def finish(self) -> None:
        """Write the manifest of the recording, after the last frame."""
        if self._writer is None or not self._times:
            return
        known = [truth for truth in self._truth if truth is not None]
        labels = tuple(sorted(set(known)))
        use_file_times = self._fps is None and len(self._file_times) == len(self._times)
        times = self._file_times if use_file_times else self._times
        duration = times[-1] - times[0]
        fps = self._fps or ((len(times) - 1) / duration if duration > 0 else self.source.fps or 1.0)
        recording = stream.Recording(
            name=shown(self._directory.name),
            seed=None,
            frames=len(self._times),
            fps=round(min(max(fps, 0.1), 1000.0), 6),
            labels=labels,
            truth=tuple(map(labels.index, known)) if len(known) == len(self._truth) else None,
            files=self._files,
            times=tuple(round(time - times[0], 6) for time in times)
            if use_file_times and not _is_constant_rate(times, fps)
            else msgspec.UNSET,
        )
        try:
            self._writer.finish(recording)
        except stream.StreamError as error:
            self.failure = str(error)
            log.error("the recording is incomplete: %s", error)

    def _record(self, shot: SourceFrame) -> None:
        try:
            if self._writer is None:
                height, width = shot.picture.shape[:2]
                self._files = "%06d.png" if height * width <= _MAX_LOSSLESS else "%06d.jpg"
                self._writer = stream.RecordingWriter(self._directory, self._files)
            self._writer.add(shot.picture)
        except stream.StreamError as error:
            log.error("frames are no longer recorded: %s", error)
            self.failure, self._open = str(error), False
            return
        self._times.append(time.monotonic())
        self._truth.append(shot.truth)
        if shot.time is not None:
            self._file_times.append(shot.time)


def _is_constant_rate(times: list[float], fps: float) -> bool:
    """Whether frames have a constant rate, apart from the rounding of their times."""
    return all(abs(time - times[0] - number / fps) < 0.25 / fps for number, time in enumerate(times))
