"""Replay of a device's decision log: the same calls, pictures and models give the same answers to the last bit.

The replay needs the machine that wrote the log: the arithmetic of another processor may differ in the last bits. It
also needs the stream in the files that the device read: a recording of a camera is JPEG, so its pixels differ. The
motion of a detector's tracks is in the log, and is not measured again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from cachenet.edge_agent import learner_file
from cachenet.edge_agent.outputs import decision_log
from cachenet.edge_agent.outputs.decision_reader import DAMAGE, BadLog, events
from cachenet.edge_agent.pipeline import Pipeline, pipeline_for
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.updates.model_loading import Runnable, open_model
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.detections import Boxes
from cachenet.shared.cascade.detect.types import Motion, SceneAnswer
from cachenet.shared.cascade.types import Answer
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.image import BadPicture, Picture, cut, parse_region
from cachenet.shared.media import pictures
from cachenet.shared.media import recording as stream

#: The answer of a classifier or of a detector.
AnyAnswer = Answer | SceneAnswer


@dataclass
class ReplayResult:
    """Result of a replay.

    Attributes:
        frames: Number of frames.
        corrections: Number of corrections after late replies.
        identical: Number of answers, corrections included, that the replay reproduces.
        first: The first answer that differs: logged, replayed. None: all answers are identical.
        truncated: Whether the log's last line is incomplete, and is not replayed.
    """

    frames: int = 0
    corrections: int = 0
    identical: int = 0
    first: tuple[AnyAnswer | None, AnyAnswer | None] | None = None
    truncated: bool = False

    def truncate(self) -> None:
        """Note that the log's last line is incomplete."""
        self.truncated = True

    def compare(self, logged: AnyAnswer | None, replayed: AnyAnswer | None) -> None:
        """Count one answer."""
        if logged == replayed:
            self.identical += logged is not None
        elif self.first is None:
            self.first = logged, replayed


def replay(log: Path, bundle: Bundle, recorded: Path, advance: Callable[[], object] = lambda: None) -> ReplayResult:
    """Replay a decision log.

    Args:
        log: The decision log.
        bundle: The bundle of the device.
        recorded: Directory of the stream that the device answered.
        advance: Called after each frame.

    Raises:
        BadLog: The log does not fit the bundle or the stream.
        StreamError: The stream cannot be read.
        OSError: A file cannot be read.
    """
    result = ReplayResult()
    try:
        _repeat(log, bundle, recorded, advance, result)
    except (UserError, BadPicture):
        raise
    except DAMAGE as error:
        raise BadLog(f"{log}, after {result.frames} answers: {error}") from error
    if not result.frames:
        raise BadLog(f"{log} has no answer in it")
    return result


def _repeat(log: Path, bundle: Bundle, recorded: Path, advance: Callable[[], object], result: ReplayResult) -> None:
    """Repeat all events of a log, and compare the answers; see ``replay``."""
    recording = stream.read(recorded)
    run: _Replay | None = None
    for event in events(log, result.truncate):
        if isinstance(event, decision_log.CascadeCreated):
            run = _Replay(event, bundle, log)
            continue
        if run is None:
            raise BadLog(f"{log} does not begin at the beginning")
        if isinstance(event, decision_log.LookedUp | decision_log.SceneLookedUp):
            run.look_up(event, picture_of(recorded, recording, event.frame, log))
        elif isinstance(event, decision_log.Completed | decision_log.SceneCompleted):
            result.frames += 1
            result.compare(event.answer, run.complete(event))
            advance()
        elif isinstance(event, decision_log.LateReply):
            result.corrections += event.answer is not None
            result.compare(event.answer, run.on_late_reply(event))
        else:
            run.repeat(event)


def check_version(begun: decision_log.CascadeCreated, bundle: Bundle, log: Path) -> None:
    """Raises ``BadLog`` if the log is of another version of the bundle."""
    if begun.version != bundle.version:
        raise BadLog(f"{log} is of bundle version {begun.version[:12]}; give that bundle, not {bundle.version[:12]}")


def picture_of(recorded: Path, recording: stream.Recording, frame: int, log: Path) -> Picture:
    """The picture of a frame of the stream. Raises ``BadLog`` if the stream has no such frame."""
    if frame >= recording.frames:
        raise BadLog(f"{log} has a frame {frame}, which {recorded} has not")
    return pictures.read(recorded / (recording.files % frame))


class _Replay:
    """The cascade of a log, and the calls that repeat the log's events."""

    def __init__(self, begun: decision_log.CascadeCreated, bundle: Bundle, log: Path) -> None:
        """Raises ``BadLog``."""
        check_version(begun, bundle, log)
        self._settings, self._log = begun.settings, log
        self._pipeline = pipeline_for(begun.settings, bundle.manifest)
        self._load = loader(bundle, begun.settings, self._pipeline)
        base = self._load(begun.base, True) if begun.base is not None else None
        self._cascade: Any = self._pipeline.build_cascade(base, begun.asks, begun.room)
        self._cascade.explains = False
        learner_file.restore(self._cascade.estimator, begun.learned, bundle.manifest.risk_version)
        self._step: Any = None
        self._motions: deque[bytes] = deque()

    def look_up(self, event: decision_log.LookedUp | decision_log.SceneLookedUp, picture: Picture) -> None:
        """Repeat a call of ``lookup``."""
        if self._settings.region:
            picture = cut(picture, parse_region(self._settings.region))
        frame = self._pipeline.frame(event.frame, picture)
        if isinstance(event, decision_log.SceneLookedUp):
            self._motions.extend(event.motions)
            if frame.flow is not None:
                frame = msgspec.structs.replace(frame, flow=self._logged_motion)
        self._step = self._cascade.lookup(frame, event.now)

    def complete(self, event: decision_log.Completed | decision_log.SceneCompleted) -> AnyAnswer:
        """Repeat a call of ``complete``; returns the answer."""
        if self._step is None:
            raise BadLog(f"{self._log} completes a frame that was never looked up")
        if isinstance(event, decision_log.SceneCompleted):
            self._motions.extend(event.motions)
        reply = None if event.reply is None else event.reply.reply()
        answer: AnyAnswer = self._cascade.complete(self._step, reply, event.now, event.error)
        return answer

    def on_late_reply(self, event: decision_log.LateReply) -> Answer | None:
        """Repeat a late reply of a classifier; returns the correction."""
        correction: Answer | None = self._cascade.on_late_reply(event.reply.reply(), event.now)
        return correction

    def repeat(self, event: decision_log.Event) -> None:
        """Repeat a call without an answer."""
        if isinstance(event, decision_log.SceneLateReply | decision_log.SceneAuditReply):
            self._motions.extend(event.motions)
        if isinstance(event, decision_log.SceneLateReply):
            self._cascade.on_late_reply(event.reply.reply(), event.now)
        elif isinstance(event, decision_log.AuditReply | decision_log.SceneAuditReply):
            self._cascade.on_audit_reply(event.reply.reply(), event.now)
        elif isinstance(event, decision_log.Installed):
            self._cascade.install(self._load(event.model, False))
        elif isinstance(event, decision_log.FullUnloaded):
            self._cascade.unload_full()
        elif isinstance(event, decision_log.Evicted):
            self._cascade.evict_to(event.budget)

    def _logged_motion(self, boxes: Boxes) -> Motion:
        """The next logged motion, in place of optical flow."""
        motion = None
        with suppress(ValueError):  # no whole number of objects
            motion = decision_log.motion_of(self._motions.popleft()) if self._motions else None
        if motion is None or len(motion.shifts) != len(boxes):
            raise BadLog(f"{self._log} has no motion of these objects: its models or its stream are others")
        return motion


def loader(bundle: Bundle, device: Settings, pipeline: Pipeline) -> Callable[[decision_log.LoggedModel, bool], Any]:
    """A function that loads a model of the bundle as the device loads it."""

    @lru_cache(None)
    def session(name: str) -> Runnable:
        return open_model(bundle.manifest, name, bundle.find, device.provider, device.threads)

    def load(model: decision_log.LoggedModel, base: bool) -> Any:
        if model.name not in bundle.manifest.models:
            raise BadLog(f"the bundle has no model {model.name}")
        return pipeline.local_model(model.name, session(model.name), model.cost, model.seconds, base, lambda _: None)

    return load
