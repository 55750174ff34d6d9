"""The flight log: every call that was made into the hierarchy, in order and with what it was given, so that a run can
be replayed decision by decision (``simulator replay``)."""

from __future__ import annotations

import msgspec

from edge_agent.core.hierarchy import Hierarchy
from edge_agent.core.submodels import LocalModel
from edge_agent.core.types import Answer, Reply, Step
from edge_agent.report import Sink
from edge_agent.settings import Settings
from shared.addresses import without_passwords
from shared.cascade.frame import Frame


class Said(msgspec.Struct, frozen=True):
    """A reply of the full model's."""

    frame: int
    logits: list[float]
    submodel: str | None
    here: bool
    risk: float | None = None


class Loaded(msgspec.Struct, frozen=True):
    """A model as the device had it: resident ``cost`` in bytes, ``seconds`` of one run."""

    name: str
    cost: int
    seconds: float


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A hierarchy over a bundle of this ``version``; see ``composition.compose``. ``settings``: without what may hold a
    password in addresses, which no replay needs."""

    settings: Settings
    version: str
    base: Loaded | None
    asks: bool
    room: int

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "settings", without_passwords(self.settings))


class Looked(msgspec.Struct, frozen=True, tag="look"):
    frame: int
    now: float


class Settled(msgspec.Struct, frozen=True, tag="settle"):
    """``answer``: what the hierarchy said."""

    frame: int
    now: float
    reply: Said | None
    trouble: str
    answer: Answer


class Late(msgspec.Struct, frozen=True, tag="late"):
    """``answer``: the correction that came of it."""

    reply: Said
    now: float
    answer: Answer | None


class Audited(msgspec.Struct, frozen=True, tag="audited"):
    reply: Said
    now: float


class Installed(msgspec.Struct, frozen=True, tag="install"):
    model: Loaded


class Shrunk(msgspec.Struct, frozen=True, tag="shrink"):
    budget: int


class Forgone(msgspec.Struct, frozen=True, tag="forgo"):
    """The full model on the device had to go."""


Event = Begun | Looked | Settled | Late | Audited | Installed | Shrunk | Forgone


def said(reply: Reply) -> Said:
    return Said(reply.frame, reply.logits.tolist(), reply.submodel, reply.here, reply.risk)


def loaded(model: LocalModel) -> Loaded:
    return Loaded(model.name, model.cost, model.seconds)


class Logged(Hierarchy):
    """A hierarchy that writes down what it is called with."""

    log: Sink

    def look(self, frame: Frame, now: float) -> Step:
        self.log.write(Looked(frame.index, now))
        return super().look(frame, now)

    def settle(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:
        answer = super().settle(step, reply, now, trouble)
        heard = said(reply) if reply is not None else None
        self.log.write(Settled(step.frame.index, now, heard, trouble, answer))
        return answer

    def late(self, reply: Reply, now: float) -> Answer | None:
        answer = super().late(reply, now)
        self.log.write(Late(said(reply), now, answer))
        return answer

    def audited(self, reply: Reply, now: float) -> None:
        self.log.write(Audited(said(reply), now))
        super().audited(reply, now)

    def install(self, model: LocalModel) -> list[str]:
        self.log.write(Installed(loaded(model)))
        return super().install(model)

    def forgo(self) -> None:
        self.log.write(Forgone())
        super().forgo()

    def shrink(self, budget: int) -> list[str]:
        self.log.write(Shrunk(budget))
        return super().shrink(budget)
