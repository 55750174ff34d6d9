"""Live cameras, which are opened again after a loss.

A read may fail or block for ever: a driver waits for an unplugged device, or the other end of a socket hangs. Each
opening of a camera therefore has its own reader thread. A reader that is silent for too long is abandoned, and another
one opens the camera again.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator

from cachenet.edge_agent.sources import devices
from cachenet.edge_agent.sources.base import SourceError, SourceFrame
from cachenet.edge_agent.sources.devices import Device
from cachenet.edge_agent.sources.files import FramePacer
from cachenet.edge_agent.sources.frozen import FrozenAlarm, OnFrozen
from cachenet.edge_agent.sources.latest import LatestValue
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.inference.engine import first_line
from cachenet.shared.inference.image import Picture

log = logging.getLogger(__name__)

#: Silence after which a camera counts as lost, seconds: longer than the timeout of the drivers, which fail cleanly.
SILENCE_S = devices.SILENCE_S + 1.0
#: Longest time to open a camera, seconds: longer than the timeout of the drivers.
OPENING_S = devices.OPENING_S + 1.0
#: First and longest delay before a camera is opened again, seconds; the delay doubles each time.
_RETRY_S = (0.25, 3.0)
#: Relative jitter of the delay, so that cameras of one switch do not connect at the same moment.
_JITTER = 0.25
#: Largest number of abandoned readers that still run. Each may hold a thread and a socket.
_MAX_ABANDONED = 3
#: Longest wait for the end of an abandoned reader, seconds.
_READER_STOP_S = 0.3


class CameraReader:
    """One opening of a camera: delivers pictures until the camera is lost or the reader is abandoned."""

    def __init__(self, device: Device, deliver: Callable[[Picture], None], wake: threading.Event) -> None:
        """``wake`` is set after the first picture and at the end."""
        #: Time of the start.
        self.started = time.monotonic()
        #: Time of the last progress: the start, the opening or a picture.
        self.last_progress = self.started
        #: Whether a picture was delivered.
        self.delivers = False
        self.opened = threading.Event()
        #: Why the reader has ended; empty before.
        self.error = ""
        self._device, self._deliver, self._wake = device, deliver, wake
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="camera reader", daemon=True)
        self._thread.start()

    @property
    def remaining_s(self) -> float:
        """Seconds until the reader counts as silent."""
        return self.last_progress + (SILENCE_S if self.opened.is_set() else OPENING_S) - time.monotonic()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def abandon(self, wait_s: float = 0.0) -> None:
        """Deliver no more pictures. The thread ends when its read returns."""
        self._abandoned = True
        self._thread.join(wait_s)

    def _run(self) -> None:
        try:
            self._read()
        except SourceError as error:
            self.error = str(error)
        except Exception as error:  # any exception of a driver means that the camera is lost
            self.error = f"its driver failed ({first_line(error)})"
        self.opened.set()
        self._wake.set()

    def _read(self) -> None:
        capture = self._device.open()
        try:
            self.last_progress = time.monotonic()
            self.opened.set()
            while not self._abandoned:
                _, picture = capture.read()
                if picture is None:
                    self.error = "it gives no more pictures"
                    return
                self.last_progress = time.monotonic()
                if not self._abandoned:
                    self._deliver(picture)
                if not self.delivers:
                    self.delivers = True
                    self._wake.set()
        finally:
            capture.release()


class Live:
    """A camera that gives only its latest picture, and is opened again after every loss."""

    broken = 0
    fps = None

    def __init__(self, device: Device, fps: float | None = None, frozen: OnFrozen = "say") -> None:
        """
        Args:
            fps: Highest frame rate, frames per second.
            frozen: Reaction to a camera that repeats one picture for ``FROZEN_S``.

        Raises:
            SourceError: The camera cannot be opened now.
        """
        self.losses = 0
        #: Why the camera is lost now; empty while it gives pictures.
        self._lost = ""
        self._device, self._pacer = device, FramePacer(fps)
        self._alarm, self._frozen_is_lost = FrozenAlarm(), frozen == "lost"
        self._latest: LatestValue[Picture] = LatestValue()
        self._closed = threading.Event()
        self._wake = threading.Event()
        self._reader = self._open()
        #: Abandoned readers that still run.
        self._abandoned: set[CameraReader] = set()
        opened = self._reader.opened.wait(OPENING_S)
        if not opened or self._reader.error:
            self._reader.abandon()
            reason = f"{device.name} does not answer; is it used by another program, or broken?"
            raise SourceError(self._reader.error or reason)
        self._monitor = SupervisedThread("camera monitor", self._supervise_reader)
        self._monitor.start()

    @property
    def dropped(self) -> int:
        return self._latest.dropped

    @property
    def error(self) -> str:
        return self._lost or self._alarm.error

    def __iter__(self) -> Iterator[SourceFrame]:
        while self._pacer.wait() and (picture := self._latest.take()) is not None:
            yield SourceFrame(picture)

    def rename(self, camera: str) -> None:
        """Show the user's name of the camera in log lines. Addresses are shown without their path, so those of two
        cameras of one recorder may be equal."""
        self._device = dataclasses.replace(self._device, name=f"{camera} ({self._device.name})")

    def close(self) -> None:
        self._closed.set()
        self._wake.set()
        self._pacer.stopped.set()
        self._latest.end()
        # A read that returns while the interpreter ends would abort the process, so wait for the reader.
        self._monitor.stop(_READER_STOP_S)
        self._reader.abandon(_READER_STOP_S)

    def _open(self) -> CameraReader:
        return CameraReader(self._device, self._deliver, self._wake)

    def _deliver(self, picture: Picture) -> None:
        """Called by the reader's thread. Raises ``SourceError`` for a frozen camera that counts as lost."""
        self._alarm.add(picture, time.monotonic(), self._device.name)
        if self._frozen_is_lost and self._alarm.error:
            raise SourceError(self._alarm.error)
        self._latest.put(picture)

    def _supervise_reader(self) -> None:
        """Replace the reader after a loss, until the camera is closed."""
        lost_at, wait_s = 0.0, _RETRY_S[0]
        while not self._closed.is_set():
            reader = self._reader
            remaining_s = reader.remaining_s
            if error := reader.error or ("" if remaining_s > 0 else "it is silent"):
                if not self._lost:
                    self.losses += 1
                    lost_at = reader.last_progress
                    # A camera that is lost again at once keeps its longer delay.
                    if reader.last_progress - reader.started > _RETRY_S[1]:
                        wait_s = _RETRY_S[0]
                    log.warning("%s is lost: %s; trying again", self._device.name, error)
                self._lost = error
                if not self._alarm.error:  # an equal picture before and after a loss does not mean frozen
                    self._alarm = FrozenAlarm()
                reader.abandon()
                if self._closed.wait(wait_s * random.uniform(1 - _JITTER, 1 + _JITTER)):
                    return
                wait_s = min(2 * wait_s, _RETRY_S[1])
                self._abandoned = {old for old in self._abandoned | {reader} if old.alive}
                if len(self._abandoned) < _MAX_ABANDONED:
                    self._reader = self._open()
            elif self._lost and reader.delivers:
                log.warning("%s is back after %.1f s", self._device.name, time.monotonic() - lost_at)
                self._lost = ""
            else:
                self._wake.wait(remaining_s)
                self._wake.clear()
