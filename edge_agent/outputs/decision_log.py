"""The decision log: every call of the cascade with its arguments, so that ``simulator replay`` can repeat a run."""

from __future__ import annotations

import msgspec

from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.settings import Settings
from cachenet.shared.cascade.cascade import Cascade
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
    """

    settings: Settings
    version: str
    base: LoggedModel | None
    asks: bool
    room: int
    learned: bytes = b""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "settings", without_passwords(self.settings))


class LookedUp(msgspec.Struct, frozen=True, tag="lookup"):
    """A call of ``Cascade.lookup``."""

    frame: int
    now: float


class Completed(msgspec.Struct, frozen=True, tag="complete"):
    """A call of ``Cascade.complete``, and the answer."""

    frame: int
    now: float
    reply: LoggedReply | None
    error: str = msgspec.field(name="trouble")
    answer: Answer


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


Event = CascadeCreated | LookedUp | Completed | LateReply | AuditReply | Installed | Evicted | FullUnloaded


def logged_reply(reply: Reply) -> LoggedReply:
    """``reply`` as the log holds it."""
    return LoggedReply(reply.frame, reply.logits.tolist(), reply.submodel, reply.on_device, reply.exit_risk)


def logged_model(model: LocalModel) -> LoggedModel:
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
        self.log.write(Completed(step.frame.index, now, logged, error, answer))
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
