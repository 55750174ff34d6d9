"""The hot loop of one source: every frame is answered for the whole picture, or for each zone of a classifier."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from cachenet.edge_agent.camera import Camera, Turn
from cachenet.edge_agent.device_cascade import DeploymentError
from cachenet.edge_agent.outputs import report
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import Source, SourceFrame
from cachenet.edge_agent.updates.loader import ModelLoader
from cachenet.shared.bundle.manifest import Task

log = logging.getLogger(__name__)

#: Failed frames of a camera or zone in a row after which its loop ends with the error.
MAX_CONSECUTIVE_ERRORS = 100
#: Time between two looks at the loader while the task of the bundle is not known, seconds.
_POLL_S = 0.1


class CameraLoop:
    """The loop of one camera of the device, in a thread of its own.

    A detector answers for the whole picture, and its objects are counted by zone. A classifier answers for each zone,
    with a cascade of its own on the crop of the zone. Which of both it is, is known when a bundle has arrived.
    """

    def __init__(
        self, settings: Settings, source: Source, loader: ModelLoader, make: Callable[[Settings, Source], Camera]
    ) -> None:
        """
        Args:
            settings: Settings of this camera.
            loader: Model loader, shared by all cameras.
            make: Creates a camera from its settings and source.

        Raises:
            OSError: A decision log cannot be opened.
        """
        self.settings, self.source, self._loader, self._make = settings, source, loader, make
        self._stopped = threading.Event()
        #: The camera, or one for each zone. A camera without a decision log until the task is known.
        self.cameras: tuple[Camera, ...] = ()
        #: Whether ``cameras`` waits for the task of the bundle.
        self._undecided = bool(settings.zone) and self._task is None
        if self._undecided:
            self.cameras = (make(msgspec.structs.replace(settings, decision_log=""), source),)
        else:
            self._choose()
        #: Index of the frame that is being answered; None between two frames.
        self.answering: int | None = None
        #: Whether ``run`` has ended by an error.
        self.failed = False
        #: Failed frames in a row by zone.
        self._failed: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """Name of the camera; empty for the only one."""
        return self.settings.name

    @property
    def live(self) -> bool:
        """Whether the source drops frames that are not read in time."""
        return self.cameras[0].live

    @property
    def frames(self) -> int:
        """Number of answered frames of the source."""
        return max(camera.tally.frames for camera in self.cameras)

    def run(self, sink: report.JsonLinesWriter, on_waiting: Callable[[], None]) -> None:
        """Answer every frame of the source until it ends or ``stop`` is called.

        A source that is not live waits until all models are installed.

        Args:
            on_waiting: Called repeatedly while there is no model.

        Raises:
            DeploymentError: The bundle or a decision log cannot be used.
        """
        try:
            self._wait_for_task(on_waiting)
            for camera in self.cameras:
                camera.wait_for_bundle(on_waiting)
            if not self.live:
                for camera in self.cameras:
                    camera.wait_for_models()
            for index, shot in enumerate(self.source):
                if self._stopped.is_set():
                    break
                self.answering = index
                self._answer(index, shot, sink)
                self.answering = None
                if index + 1 == self.settings.frames:
                    break
        except BaseException:
            self.failed = True
            raise
        finally:
            self.source.close()
            for camera in self.cameras:
                camera.close()

    def stop(self) -> None:
        """End ``run``; thread-safe."""
        self._stopped.set()
        for camera in self.cameras:
            camera.stop()

    def _answer(self, index: int, shot: SourceFrame, sink: report.JsonLinesWriter) -> None:
        """Answer one frame for each zone. All of them share the deadline of the frame, so each is first in its turn."""
        if len(self.cameras) == 1:
            self._step(self.cameras[0], index, shot, sink, Turn())
            return
        deadline = time.monotonic() + self.settings.deadline_ms / 1000
        first = index % len(self.cameras)
        order = (*self.cameras[first:], *self.cameras[:first])
        lines: tuple[report.AnswerLine, ...] = ()
        for camera in order:
            turn = Turn(deadline, lines, camera is order[-1])
            if self._step(camera, index, shot, sink, turn) and camera.last_answered is not None:
                lines = (*lines, camera.last_answered.line)

    def _step(self, camera: Camera, index: int, shot: SourceFrame, sink: report.JsonLinesWriter, turn: Turn) -> bool:
        """Answer one frame for one camera or zone; returns whether that succeeded."""
        try:
            camera.step(index, shot, sink, turn)
        except DeploymentError:
            raise
        except Exception:
            camera.deciding = None
            camera.errors += 1
            self._failed[camera.zone] += 1
            log.exception("%sframe %d could not be answered", f"{camera.title}: " * bool(camera.title), index)
            if self._failed[camera.zone] == MAX_CONSECUTIVE_ERRORS:
                raise
            return False
        self._failed[camera.zone] = 0
        return True

    @property
    def _task(self) -> Task | None:
        """Task of the bundle; None before one has arrived."""
        return self._loader.target[0].task if self._loader.target is not None else None

    def _wait_for_task(self, on_waiting: Callable[[], None]) -> None:
        while self._undecided and not self._stopped.wait(_POLL_S):
            on_waiting()
            if self._task is None:
                continue
            try:
                self._choose()
            except OSError as error:
                raise DeploymentError(f"decision_log {error.filename}: {error.strerror}") from None
            self._undecided = False
        if self._stopped.is_set():  # perhaps while the cameras were made
            self.stop()

    def _choose(self) -> None:
        """Make the cameras for the task of the bundle."""
        classifies = bool(self.settings.zone) and self._task == "classification"
        each = self.settings.each_zone() if classifies else (self.settings,)
        self.cameras = tuple(self._make(own, self.source) for own in each)
