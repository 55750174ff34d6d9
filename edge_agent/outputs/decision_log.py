"""The decision log: every call of the cascade with its arguments, so that ``simulator replay`` can repeat a run."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.settings import Settings
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.decision import Decision
from cachenet.shared.cascade.detect.detections import Boxes, Detections
from cachenet.shared.cascade.detect.scene_cascade import SceneCascade
from cachenet.shared.cascade.detect.types import (
    Flow,
    LocalDetector,
    Motion,
    SceneAnswer,
    SceneFrame,
    SceneReply,
    SceneStep,
)
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.types import Answer, Reply, Step
from cachenet.shared.transport.addresses import without_passwords


class LoggedReply(msgspec.Struct, frozen=True):
    """A reply of the full model, with the fields of ``Reply``."""

    frame: int
    logits: list[float]
    submodel: str | None
    on_device: bool
    exit_risk: float | None = None

    def reply(self) -> Reply:
        """The reply that was logged."""
        logits = np.array(self.logits, np.float32)
        return Reply(self.frame, logits, self.submodel, self.on_device, self.exit_risk)


class LoggedObjects(msgspec.Struct, frozen=True):
    """A reply of a full detector, with the fields of ``SceneReply``: boxes ``(n, 4)``, labels and scores ``(n,)``."""

    frame: int
    boxes: list[list[float]]
    labels: list[int]
    scores: list[float]
    submodel: str | None
    on_device: bool

    def reply(self) -> SceneReply:
        """The reply that was logged."""
        boxes, scores = np.array(self.boxes, np.float32).reshape(-1, 4), np.array(self.scores, np.float32)
        found = Detections(boxes, np.array(self.labels, np.int64), scores)
        return SceneReply(self.frame, found, self.submodel, self.on_device)


class LoggedModel(msgspec.Struct, frozen=True):
    """A loaded model: its resident ``cost`` in bytes, and the ``seconds`` of one run."""

    name: str
    cost: int
    seconds: float


class CascadeCreated(msgspec.Struct, frozen=True, tag="begun"):
    """A new cascade, with the arguments of ``build_device_cascade``.

    Attributes:
        settings: Addresses are without passwords, which a replay does not need.
        version: Version of the bundle.
        asks: Whether misses may be sent to a server.
        room: Bytes that all submodels may use together.
        learned: Bytes from which ``learner_file.restore`` restored the risk models; empty for none.
        labels: Labels of the bundle; empty in logs of earlier versions.
    """

    settings: Settings
    version: str
    base: LoggedModel | None
    asks: bool
    room: int
    learned: bytes = b""
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "settings", without_passwords(self.settings))


class LookedUp(msgspec.Struct, frozen=True, tag="lookup"):
    """A call of ``Cascade.lookup``."""

    frame: int
    now: float


class Completed(msgspec.Struct, frozen=True, tag="complete"):
    """A call of ``Cascade.complete``, and the answer.

    Attributes:
        decision: What the lookup has tried; None in logs of earlier versions.
    """

    frame: int
    now: float
    reply: LoggedReply | None
    error: str = msgspec.field(name="trouble")
    answer: Answer
    decision: Decision | None = None


class LateReply(msgspec.Struct, frozen=True, tag="late"):
    """A call of ``Cascade.on_late_reply``, and the correction."""

    reply: LoggedReply
    now: float
    answer: Answer | None


class AuditReply(msgspec.Struct, frozen=True, tag="audit"):
    """A call of ``Cascade.on_audit_reply``."""

    reply: LoggedReply
    now: float


class Installed(msgspec.Struct, frozen=True, tag="install"):
    """A call of ``Cascade.install``."""

    model: LoggedModel


class Evicted(msgspec.Struct, frozen=True, tag="evict"):
    """A call of ``Cascade.evict_to``; ``budget`` in bytes."""

    budget: int


class FullUnloaded(msgspec.Struct, frozen=True, tag="unload-full"):
    """A call of ``Cascade.unload_full``."""


#: Results of the calls of ``SceneFrame.flow``, in their order: displacement and consistency of each box, as
#: little-endian float32 ``(n, 3)``.
Motions = list[bytes]


class SceneLookedUp(msgspec.Struct, frozen=True, tag="scene-lookup"):
    """A call of ``SceneCascade.lookup``."""

    frame: int
    now: float
    motions: Motions


class SceneCompleted(msgspec.Struct, frozen=True, tag="scene-complete"):
    """A call of ``SceneCascade.complete``, and the answer.

    Attributes:
        decision: What the lookup has tried; None in logs of earlier versions.
    """

    frame: int
    now: float
    reply: LoggedObjects | None
    error: str
    answer: SceneAnswer
    motions: Motions
    decision: Decision | None = None


class SceneLateReply(msgspec.Struct, frozen=True, tag="scene-late"):
    """A call of ``SceneCascade.on_late_reply``."""

    reply: LoggedObjects
    now: float
    motions: Motions


class SceneAuditReply(msgspec.Struct, frozen=True, tag="scene-audit"):
    """A call of ``SceneCascade.on_audit_reply``."""

    reply: LoggedObjects
    now: float
    motions: Motions


#: Calls of a detector's cascade.
SceneEvent = SceneLookedUp | SceneCompleted | SceneLateReply | SceneAuditReply
Event = CascadeCreated | LookedUp | Completed | LateReply | AuditReply | Installed | Evicted | FullUnloaded | SceneEvent


def logged_reply(reply: Reply) -> LoggedReply:
    """``reply`` as the log holds it."""
    return LoggedReply(reply.frame, reply.logits.tolist(), reply.submodel, reply.on_device, reply.exit_risk)


def logged_objects(reply: SceneReply) -> LoggedObjects:
    """``reply`` as the log holds it."""
    found = reply.detections
    return LoggedObjects(
        reply.frame,
        found.boxes.tolist(),
        found.labels.tolist(),
        found.scores.tolist(),
        reply.submodel,
        reply.on_device,
    )


def logged_motion(motion: Motion) -> bytes:
    """``motion`` as the log holds it."""
    return np.column_stack(motion).astype("<f4").tobytes()


def motion_of(logged: bytes) -> Motion:
    """The motion that was logged."""
    table = np.frombuffer(logged, "<f4").reshape(-1, 3).astype(np.float32)
    return Motion(table[:, :2], table[:, 2])


def logged_model(model: LocalModel | LocalDetector) -> LoggedModel:
    """``model`` as the log holds it."""
    return LoggedModel(model.name, model.cost, model.seconds)


class LoggedCascade(Cascade):
    """A cascade that logs its calls."""

    log: JsonLinesWriter

    def lookup(self, frame: Frame, now: float) -> Step:
        self.log.write(LookedUp(frame.index, now))
        return super().lookup(frame, now)

    def complete(self, step: Step, reply: Reply | None, now: float, error: str = "") -> Answer:
        answer = super().complete(step, reply, now, error)
        logged = logged_reply(reply) if reply is not None else None
        self.log.write(Completed(step.frame.index, now, logged, error, answer, self.decision))
        return answer

    def on_late_reply(self, reply: Reply, now: float) -> Answer | None:
        answer = super().on_late_reply(reply, now)
        self.log.write(LateReply(logged_reply(reply), now, answer))
        return answer

    def on_audit_reply(self, reply: Reply, now: float) -> None:
        self.log.write(AuditReply(logged_reply(reply), now))
        super().on_audit_reply(reply, now)

    def install(self, model: LocalModel) -> list[str]:
        self.log.write(Installed(logged_model(model)))
        return super().install(model)

    def unload_full(self) -> None:
        self.log.write(FullUnloaded())
        super().unload_full()

    def evict_to(self, max_bytes: int) -> list[str]:
        self.log.write(Evicted(max_bytes))
        return super().evict_to(max_bytes)


class LoggedSceneCascade(SceneCascade):
    """A detector's cascade that logs its calls."""

    log: JsonLinesWriter

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._motions: Motions = []

    def lookup(self, frame: SceneFrame, now: float) -> SceneStep:
        if frame.flow is not None:
            frame = msgspec.structs.replace(frame, flow=self._logged(frame.flow))
        try:
            return super().lookup(frame, now)
        finally:
            self.log.write(SceneLookedUp(frame.index, now, self._taken()))

    def complete(self, step: SceneStep, reply: SceneReply | None, now: float, failure: str = "") -> SceneAnswer:
        answer = super().complete(step, reply, now, failure)
        logged = logged_objects(reply) if reply is not None else None
        event = SceneCompleted(step.frame.index, now, logged, failure, answer, self._taken(), self.decision)
        self.log.write(event)
        return answer

    def on_late_reply(self, reply: SceneReply, now: float) -> SceneAnswer | None:
        answer = super().on_late_reply(reply, now)
        self.log.write(SceneLateReply(logged_objects(reply), now, self._taken()))
        return answer

    def on_audit_reply(self, reply: SceneReply, now: float) -> None:
        super().on_audit_reply(reply, now)
        self.log.write(SceneAuditReply(logged_objects(reply), now, self._taken()))

    def install(self, model: LocalDetector) -> list[str]:
        self.log.write(Installed(logged_model(model)))
        return super().install(model)

    def unload_full(self) -> None:
        self.log.write(FullUnloaded())
        super().unload_full()

    def evict_to(self, max_bytes: int) -> list[str]:
        self.log.write(Evicted(max_bytes))
        return super().evict_to(max_bytes)

    def _logged(self, flow: Flow) -> Flow:
        """``flow``, whose results are kept for the next event."""

        def measure(boxes: Boxes) -> Motion:
            motion = flow(boxes)
            self._motions.append(logged_motion(motion))
            return motion

        return measure

    def _taken(self) -> Motions:
        """The motions since the last event."""
        motions, self._motions = self._motions, []
        return motions
