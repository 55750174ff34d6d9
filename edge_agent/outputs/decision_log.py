"""The flight log: every call that was made into the cascade, in order and with what it was given, so that a run can be
replayed decision by decision (``simulator replay``)."""

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
    """A reply of the full model; the fields are those of ``Reply``."""

    frame: int
    logits: list[float]
    submodel: str | None
    on_device: bool
    exit_risk: float | None = None


class ModelInstalled(msgspec.Struct, frozen=True):
    """A model as the device had it: resident ``cost`` in bytes, ``seconds`` of one run."""

    name: str
    cost: int
    seconds: float


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A cascade over a bundle of this ``version``; see ``composition.compose``, which has the same arguments.
    ``settings``: without what may hold a password in addresses, which no replay needs. ``learned``: what risk models of
    an earlier run were restored from, empty where none were; see ``learner_file.restore``."""

    settings: Settings
    version: str
    base: ModelInstalled | None
    asks: bool
    room: int
    learned: bytes = b""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "settings", without_passwords(self.settings))


class Looked(msgspec.Struct, frozen=True, tag="lookup"):
    frame: int
    now: float


class Completed(msgspec.Struct, frozen=True, tag="complete"):
    """``answer``: that of the frame."""

    frame: int
    now: float
    reply: Said | None
    trouble: str
    answer: Answer


class LateReply(msgspec.Struct, frozen=True, tag="late"):
    """``answer``: the correction that came of it."""

    reply: Said
    now: float
    answer: Answer | None


class AuditReply(msgspec.Struct, frozen=True, tag="audit"):
    reply: Said
    now: float


class Installed(msgspec.Struct, frozen=True, tag="install"):
    model: ModelInstalled


class Evicted(msgspec.Struct, frozen=True, tag="evict"):
    budget: int


class FullUnloaded(msgspec.Struct, frozen=True, tag="unload-full"):
    """The full model on the device had to go."""


Event = Begun | Looked | Completed | LateReply | AuditReply | Installed | Evicted | FullUnloaded


def said(reply: Reply) -> Said:
    return Said(reply.frame, reply.logits.tolist(), reply.submodel, reply.on_device, reply.exit_risk)


def loaded(model: LocalModel) -> ModelInstalled:
    return ModelInstalled(model.name, model.cost, model.seconds)


class LoggedCascade(Cascade):
    """A cascade that writes down what it is called with."""

    log: Sink

    def lookup(self, frame: Frame, now: float) -> Step:
        self.log.write(Looked(frame.index, now))
        return super().lookup(frame, now)

    def complete(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:
        answer = super().complete(step, reply, now, trouble)
        heard = said(reply) if reply is not None else None
        self.log.write(Completed(step.frame.index, now, heard, trouble, answer))
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
