"""The decision log: every call of the cascade with its arguments, so that ``simulator replay`` can repeat a run."""

from __future__ import annotations

import msgspec

from cachenet.edge_agent.outputs.report import Sink
from cachenet.edge_agent.settings import Settings
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.types import Answer, Reply, Step
from cachenet.shared.transport.addresses import without_passwords


class Said(msgspec.Struct, frozen=True):
    """A reply of the full model, with the fields of ``Reply``."""

    frame: int
    logits: list[float]
    submodel: str | None
    on_device: bool
    exit_risk: float | None = None


class ModelInstalled(msgspec.Struct, frozen=True):
    """A loaded model: its resident ``cost`` in bytes, and the ``seconds`` of one run."""

    name: str
    cost: int
    seconds: float


class Begun(msgspec.Struct, frozen=True, tag="begun"):
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
    base: ModelInstalled | None
    asks: bool
    room: int
    learned: bytes = b""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "settings", without_passwords(self.settings))


class Looked(msgspec.Struct, frozen=True, tag="lookup"):
    """A call of ``Cascade.lookup``."""

    frame: int
    now: float


class Completed(msgspec.Struct, frozen=True, tag="complete"):
    """A call of ``Cascade.complete``, and the answer."""

    frame: int
    now: float
    reply: Said | None
    trouble: str
    answer: Answer


class LateReply(msgspec.Struct, frozen=True, tag="late"):
    """A call of ``Cascade.on_late_reply``, and the correction."""

    reply: Said
    now: float
    answer: Answer | None


class AuditReply(msgspec.Struct, frozen=True, tag="audit"):
    """A call of ``Cascade.on_audit_reply``."""

    reply: Said
    now: float


class Installed(msgspec.Struct, frozen=True, tag="install"):
    """A call of ``Cascade.install``."""

    model: ModelInstalled


class Evicted(msgspec.Struct, frozen=True, tag="evict"):
    """A call of ``Cascade.evict_to``; ``budget`` in bytes."""

    budget: int


class FullUnloaded(msgspec.Struct, frozen=True, tag="unload-full"):
    """A call of ``Cascade.unload_full``."""


Event = Begun | Looked | Completed | LateReply | AuditReply | Installed | Evicted | FullUnloaded


def said(reply: Reply) -> Said:
    """``reply`` as the log holds it."""
    return Said(reply.frame, reply.logits.tolist(), reply.submodel, reply.on_device, reply.exit_risk)


def loaded(model: LocalModel) -> ModelInstalled:
    """``model`` as the log holds it."""
    return ModelInstalled(model.name, model.cost, model.seconds)


class LoggedCascade(Cascade):
    """A cascade that logs its calls."""

    log: Sink

    def lookup(self, frame: Frame, now: float) -> Step:
        self.log.write(Looked(frame.index, now))
        return super().lookup(frame, now)

    def complete(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:
        answer = super().complete(step, reply, now, trouble)
        logged = said(reply) if reply is not None else None
        self.log.write(Completed(step.frame.index, now, logged, trouble, answer))
        return answer

    def on_late_reply(self, reply: Reply, now: float) -> Answer | None:
        answer = super().on_late_reply(reply, now)
        self.log.write(LateReply(said(reply), now, answer))
        return answer

    def on_audit_reply(self, reply: Reply, now: float) -> None:
        self.log.write(AuditReply(said(reply), now))
        super().on_audit_reply(reply, now)

    def install(self, model: LocalModel) -> list[str]:
        self.log.write(Installed(loaded(model)))
        return super().install(model)

    def unload_full(self) -> None:
        self.log.write(FullUnloaded())
        super().unload_full()

    def evict_to(self, budget: int) -> list[str]:
        self.log.write(Evicted(budget))
        return super().evict_to(budget)
