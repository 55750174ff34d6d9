"""A camera that is lost comes back: readers of its pictures, and the watch over them.

A read may fail, and it may never return (a driver that waits for a device which is gone, a socket whose other end has
frozen). So each opening of a camera has a thread of its own, which is left behind when it is silent for too long, while
another one tries to open the camera anew.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator

from cachenet.edge_agent.sources import devices
from cachenet.edge_agent.sources.base import Shot, SourceError
from cachenet.edge_agent.sources.devices import Device
from cachenet.edge_agent.sources.files import FramePacer
from cachenet.edge_agent.sources.frozen import FrozenAlarm, OnFrozen
from cachenet.edge_agent.sources.latest import LatestValue
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.inference.engine import first_line
from cachenet.shared.inference.image import Picture

log = logging.getLogger(__name__)

#: How long a camera may be silent before it counts as lost, and how long it may take to be opened: a little more than
#: those below wait, which give up in an orderly way.
SILENCE_S, OPENING_S = devices.SILENCE_S + 1.0, devices.OPENING_S + 1.0
#: Between two tries to open it again: from, up to, twice as long each time; and by what share more or less, so that all
#: cameras of a switch that is back do not ask at once.
_RETRY_S, _JITTER = (0.25, 3.0), 0.25
#: Readers that may be left behind, stuck, at a time. No other is begun then: each may hold a thread and a socket.
_STUCK = 3
#: How long a reader that is not wanted any more may take to end.
_LAST_FRAME_S = 0.3


class CameraReader:
    """One opening of a camera, and its pictures until it is lost or left behind."""

    def __init__(self, device: Device, deliver: Callable[[Picture], None], stir: threading.Event) -> None:
        """``stir`` is set at the first picture and at the end."""
        #: When it began and when it last gave a sign of life, and whether that was a picture.
        self.begun = self.sign = time.monotonic()
        self.gives = False
        self.opened = threading.Event()
        #: Why it has ended, or could not begin; empty until then.
        self.error = ""
        self._device, self._deliver, self._stir = device, deliver, stir
        self._left = False
        self._thread = threading.Thread(target=self._run, name="camera reader", daemon=True)
        self._thread.start()

    @property
    def patience_s(self) -> float:
        """Seconds until it will have been silent for too long."""
        return self.sign + (SILENCE_S if self.opened.is_set() else OPENING_S) - time.monotonic()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def leave(self, wait_s: float = 0.0) -> None:
        """It is not wanted any more, and ends when its read returns."""
        self._left = True
        self._thread.join(wait_s)

    def _run(self) -> None:
        try:
            self._read()
        except SourceError as error:
            self.error = str(error)
        except Exception as error:  # whatever a driver may raise, here the camera is lost and no more
            self.error = f"its driver failed ({first_line(error)})"
        self.opened.set()
        self._stir.set()

    def _read(self) -> None:
        capture = self._device.open()
        try:
            self.sign = time.monotonic()
            self.opened.set()
            while not self._left:
                _, picture = capture.read()
                if picture is None:
                    self.error = "it gives no more pictures"
                    return
                self.sign = time.monotonic()
                if not self._left:
                    self._deliver(picture)
                if not self.gives:
                    self.gives = True
                    self._stir.set()
        finally:
            capture.release()


class Live:
    """A camera: only its latest picture counts, and it is opened again whenever it is lost, for as long as it takes."""

    broken = 0
    fps = None

    def __init__(self, device: Device, fps: float | None = None, frozen: OnFrozen = "say") -> None:
        """``fps``: take no more pictures than that. ``frozen``: whether a camera that gives the same picture for
        ``FROZEN_S`` is lost, or this is only said. Raises ``SourceError`` if the camera is not there now."""
        self.losses = 0
        #: Why the camera counts as lost now; empty while it gives pictures.
        self._lost = ""
        self._device, self._pace = device, FramePacer(fps)
        self._alarm, self._frozen_is_lost = FrozenAlarm(), frozen == "lost"
        self._latest: LatestValue[Picture] = LatestValue()
        self._closed = threading.Event()
        self._stir = threading.Event()
        self._reader = self._open()
        #: Readers that were left behind, and have not ended yet.
        self._left: set[CameraReader] = set()
        answers = self._reader.opened.wait(OPENING_S)
        if not answers or self._reader.error:
            self._reader.leave()
            raise SourceError(self._reader.error or f"{device.name} does not answer; is it free, and well?")
        self._watch = SupervisedThread("camera watch", self._keep)
        self._watch.start()

    @property
    def dropped(self) -> int:
        return self._latest.dropped

    @property
    def error(self) -> str:
        return self._lost or self._alarm.error

    def __iter__(self) -> Iterator[Shot]:
        while self._pace.wait() and (picture := self._latest.take()) is not None:
            yield Shot(picture)

    def rename(self, camera: str) -> None:
        """Have log lines begin with the name that the user gave the camera: addresses are shown without their path,
        so those of two cameras of one recorder may look alike."""
        self._device = dataclasses.replace(self._device, name=f"{camera} ({self._device.name})")

    def close(self) -> None:
        self._closed.set()
        self._stir.set()
        self._pace.stopped.set()
        self._latest.end()
        # A read that returns while the interpreter ends aborts the process, so wait for it to be the last.
        self._watch.stop(_LAST_FRAME_S)
        self._reader.leave(_LAST_FRAME_S)

    def _open(self) -> CameraReader:
        return CameraReader(self._device, self._deliver, self._stir)

    def _deliver(self, picture: Picture) -> None:
        """From a reader's thread. Raises ``SourceError`` for a frozen camera that counts as lost."""
        self._alarm.see(picture, time.monotonic(), self._device.name)
        if self._frozen_is_lost and self._alarm.error:
            raise SourceError(self._alarm.error)
        self._latest.put(picture)

    def _keep(self) -> None:
        """Watch the reader until the camera is closed; in the place of one that is lost begin another."""
        lost_at, wait_s = 0.0, _RETRY_S[0]
        while not self._closed.is_set():
            reader = self._reader
            patience_s = reader.patience_s
            if error := reader.error or ("" if patience_s > 0 else "it is silent"):
                if not self._lost:
                    self.losses += 1
                    lost_at = reader.sign
                    if reader.sign - reader.begun > _RETRY_S[1]:  # and not one that comes and goes
                        wait_s = _RETRY_S[0]
                    log.warning("%s is lost: %s; trying again", self._device.name, error)
                self._lost = error
                if not self._alarm.error:  # or a still picture before and after a loss would pass for a frozen one
                    self._alarm = FrozenAlarm()
                reader.leave()
                if self._closed.wait(wait_s * random.uniform(1 - _JITTER, 1 + _JITTER)):
                    return
                wait_s = min(2 * wait_s, _RETRY_S[1])
                self._left = {left for left in self._left | {reader} if left.alive}
                if len(self._left) < _STUCK:
                    self._reader = self._open()
            elif self._lost and reader.gives:
                log.warning("%s is back after %.1f s", self._device.name, time.monotonic() - lost_at)
                self._lost = ""
            else:
                self._stir.wait(patience_s)
                self._stir.clear()
