"""The policies that are compared, as what a device decides with.

All are driven by the calls that drive ``shared.cascade.cascade.Cascade``: ``lookup`` and ``complete`` once a frame,
``on_late_reply``, ``on_audit_reply`` and ``install`` in between. ``cachenet`` is that very cascade.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.edge_agent.composition import build_device_cascade
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.updates.active_bundle import GROWTH, ROOM
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.cascade import RECENT, Cascade
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.types import (
    Answer,
    Hit,
    Judge,
    LocalLevel,
    Miss,
    Prediction,
    Reply,
    Step,
)
from cachenet.simulator.policies import trivial
from cachenet.simulator.policies.trivial import Rule, Setting, Student, Trivial
from cachenet.simulator.traces.trace import Trace

Policy = Literal[
    "cachenet",
    "cachenet-paper",
    "hold",
    "difference",
    "student",
    "student+hold",
    "threshold-offload",
    "server-only",
    "device-only",
    "device-base",
    "oracle",
]
POLICIES: tuple[Policy, ...] = get_args(Policy)
#: CacheNet's own.
OWN: Policy = "cachenet"
#: Confidence from which Sedna's joint inference keeps a frame on the device ("IBT", its examples' ``threshold_img``).
_SEDNA_CONFIDENCE = 0.9
#: Questions whose replies may still come.
_PENDING = 64


class DecisionPolicy(Protocol):
    """What decides on a device: ``Cascade``, or what takes its place. See there."""

    pending_fetch: str | None

    def lookup(self, frame: Frame, now: float) -> Step: ...

    def complete(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer: ...

    def on_late_reply(self, reply: Reply, now: float) -> Answer | None: ...

    def on_audit_reply(self, reply: Reply, now: float) -> None: ...

    def install(self, model: LocalModel) -> list[str]: ...


class ModelTimer:
    """Seconds that models have run since it was last read."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        self._seconds += seconds

    def take(self) -> float:
        seconds, self._seconds = self._seconds, 0.0
        return seconds


@dataclass(frozen=True)
class PolicyInputs:
    """What policies are made of.

    Attributes:
        max_disagreement: The risk budget.
        deadline: Seconds that a frame may take.
        seconds: Of one run on the device, by model, on so many ``threads``.
        whole: Of the full model on all of the device's processors.
        settings: Thresholds of the trivial policies.
        name: Of the device, which its audits are drawn by.
        reached: Seconds on all processors until each early exit of the full model has answered, and last of those that
            none answers; empty without early exits.
    """

    film: Trace
    manifest: Manifest
    max_disagreement: float
    deadline: float
    seconds: dict[str, float]
    whole: float
    settings: Mapping[Trivial, Setting] = field(default_factory=dict)
    name: str = "device"
    threads: int = 1
    reached: tuple[float, ...] = ()

    def model(self, name: str, meter: ModelTimer) -> LocalModel:
        """A model of the bundle, whose runs are counted."""
        table, model = self.film.pictures.logits[name], self.manifest.models[name]
        seconds = self.whole if model.role == "full" else self.seconds[name]

        def score(row: int) -> npt.NDArray[np.float32]:
            meter.add(seconds)
            logits: npt.NDArray[np.float32] = table[row]
            return logits

        level: LocalLevel = "base" if model.role == "base" else "submodels"
        coverage = np.array(model.coverage)
        judge = self._judge(meter) if model.role == "full" and self.reached else None
        return LocalModel(name, score, model.temperature, coverage, GROWTH * model.bytes, seconds, level, judge)

    def _judge(self, meter: ModelTimer) -> Judge:
        """The full model with its early exits."""
        through = self.film.pictures.through
        assert through is not None
        table = self.film.pictures.logits[self.manifest.only("full")]

        def judge(row: int, _recent: tuple[int, ...], risk: float) -> tuple[npt.NDArray[np.float32], float | None]:
            layer = int(through.layers[row])
            if layer < 0 or through.risks[row] > risk:  # the next exit might do, but that is not on the film
                meter.add(self.reached[-1])
                return table[row], None
            meter.add(self.reached[layer])
            return through.logits[row], float(through.risks[row])

        return judge

    def student(self) -> Student:
        """The base model on every picture."""
        base = self.manifest.only("base")
        return Student(self.film, base, self.manifest.models[base].temperature)

    def of(self, policy: Policy) -> PolicyInputs:
        """As the policy finds it. The server of ``cachenet-paper`` has submodels of some labels and no others, and
        recommends the best, for there is no base model that it must be better than."""
        if policy != "cachenet-paper":
            return self
        base = self.manifest.only("base")
        models = {name: one for name, one in self.manifest.models.items() if one.classes or one.role != "submodel"}
        none = (0.0,) * len(self.manifest.labels)
        models |= {base: msgspec.structs.replace(models[base], coverage=none)}
        return replace(self, manifest=msgspec.structs.replace(self.manifest, models=models))


def mind(policy: Policy, kit: PolicyInputs, meter: ModelTimer) -> DecisionPolicy:
    """A device's policy, new."""
    return _MAKE[policy](kit, meter)


def _cachenet(kit: PolicyInputs, meter: ModelTimer) -> Cascade:
    settings = Settings(device=kit.name, deadline_ms=round(1000 * kit.deadline), max_disagreement=kit.max_disagreement)
    return build_device_cascade(settings, kit.manifest, kit.model(kit.manifest.only("base"), meter), True, ROOM)


class Always:
    """One model of the device's own answers every frame; nothing is learned or fetched."""

    pending_fetch: str | None = None

    def __init__(self, kit: PolicyInputs, name: str, seconds: float, meter: ModelTimer) -> None:
        self._name, self._seconds, self._meter = name, seconds, meter
        self._labels = kit.film.pictures.first[name]

    def lookup(self, frame: Frame, now: float) -> Step:  # noqa: ARG002
        self._meter.add(self._seconds)
        return Hit(frame, _certain(int(self._labels[frame.view]), "base", self._name))

    def complete(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:  # noqa: ARG002
        assert isinstance(step, Hit)
        return _answer(step)

    def on_late_reply(self, reply: Reply, now: float) -> Answer | None:  # noqa: ARG002
        return None

    def on_audit_reply(self, reply: Reply, now: float) -> None:
        """There are no audits."""

    def install(self, model: LocalModel) -> list[str]:
        return [model.name]


class Asking:
    """The full model is asked about every frame that ``local`` has no answer to: ``server-only``, and what others are
    made from."""

    pending_fetch: str | None = None

    def __init__(self, kit: PolicyInputs) -> None:
        self._full, self._deadline = kit.manifest.only("full"), kit.deadline
        self._recent: deque[int] = deque(maxlen=RECENT)
        self._asked: deque[Frame] = deque(maxlen=_PENDING)

    def local(self, frame: Frame) -> Prediction | None:  # noqa: ARG002
        """The device's answer; None: the full model is asked."""
        return None

    def keep(self, frame: Frame, label: int) -> None:
        """The full model has answered ``label`` to ``frame``."""

    def lookup(self, frame: Frame, now: float) -> Step:
        if (prediction := self.local(frame)) is not None:
            return Hit(frame, prediction)
        fallback = Prediction(self._recent[-1] if self._recent else 0, 1.0, 1.0, "frames", self._full)
        return Miss(frame, tuple(self._recent), now, now + self._deadline, fallback, "asked")

    def complete(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:  # noqa: ARG002
        if isinstance(step, Hit):
            answer = _answer(step)
        elif reply is None:
            self._asked.append(step.frame)
            return Answer(step.frame.index, step.fallback.label, 0.0, 1.0, "fallback", self._full, trouble)
        else:
            self.keep(step.frame, reply.label)
            answer = Answer(step.frame.index, reply.label, 1.0, 0.0, "cloud", self._full, step.reason)
        assert answer.label is not None
        if not self._recent or self._recent[-1] != answer.label:
            self._recent.append(answer.label)
        return answer

    def on_late_reply(self, reply: Reply, now: float) -> Answer | None:  # noqa: ARG002
        frame = next((one for one in self._asked if one.index == reply.frame), None)
        if frame is not None:
            self._asked.remove(frame)
            self.keep(frame, reply.label)
        return None

    def on_audit_reply(self, reply: Reply, now: float) -> None:
        """There are no audits."""

    def install(self, model: LocalModel) -> list[str]:
        return [model.name]


class Ruled(Asking):
    """A trivial policy, see ``simulator.policies.trivial``."""

    def __init__(self, kit: PolicyInputs, own: Rule, meter: ModelTimer) -> None:
        super().__init__(kit)
        self._rule, self._meter = own, meter
        self._base = kit.manifest.only("base")
        self._seconds = kit.seconds[self._base] if own.runs_base else 0.0

    def local(self, frame: Frame) -> Prediction | None:
        self._meter.add(self._seconds)
        found = self._rule.answer(frame)
        return None if found is None else _certain(*found, self._base if found[1] == "base" else self._full)

    def keep(self, frame: Frame, label: int) -> None:
        self._rule.keep(frame, label)


class Paper(Asking):
    """CacheNet as published (arXiv 2007.01793, section IV): one submodel, trusted where the entropy of its softmax is
    small enough; the one that the server recommends takes its place."""

    def __init__(self, kit: PolicyInputs, meter: ModelTimer) -> None:  # noqa: ARG002
        super().__init__(kit)
        self._most_entropy = kit.manifest.entropy
        self._submodel: LocalModel | None = None

    def local(self, frame: Frame) -> Prediction | None:
        looked = None if self._submodel is None else self._submodel.run(frame.view)
        if self._submodel is None or looked is None:
            return None
        _, probabilities = looked
        entropy = -float((probabilities * np.log(np.maximum(probabilities, 1e-300))).sum())
        if entropy > self._most_entropy:
            return None
        return _certain(int(probabilities.argmax()), "submodels", self._submodel.name)

    def complete(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:
        if reply is not None:
            self._recommend(reply.submodel)
        return super().complete(step, reply, now, trouble)

    def on_late_reply(self, reply: Reply, now: float) -> Answer | None:
        self._recommend(reply.submodel)
        return super().on_late_reply(reply, now)

    def install(self, model: LocalModel) -> list[str]:
        gone = [] if self._submodel is None else [self._submodel.name]
        self._submodel, self.pending_fetch = model, None
        return gone

    def _recommend(self, name: str | None) -> None:
        if name is not None and (self._submodel is None or self._submodel.name != name):
            self.pending_fetch = name


class Oracle(Asking):
    """The bound: ask exactly where neither the last answer of the full model nor any local model's label is the full
    model's answer. A local model costs one run, that of the quickest one that is right; a held answer costs none."""

    def __init__(self, kit: PolicyInputs, meter: ModelTimer) -> None:
        super().__init__(kit)
        self._meter, self._right, self._last = meter, kit.film.pictures.first[self._full], -1
        names = sorted((kit.manifest.only("base"), *kit.manifest.submodels()), key=kit.seconds.__getitem__)
        self._models = [(name, kit.seconds[name], kit.film.pictures.first[name]) for name in names]

    def local(self, frame: Frame) -> Prediction | None:
        right = int(self._right[frame.view])
        if right == self._last:
            return _certain(right, "frames", self._full)
        for name, seconds, labels in self._models:
            if labels[frame.view] == right:
                self._meter.add(seconds)
                return _certain(right, "submodels", name)
        return None

    def keep(self, frame: Frame, label: int) -> None:  # noqa: ARG002
        self._last = label


def _certain(label: int, level: LocalLevel, model: str) -> Prediction:
    """A prediction without a risk of its own."""
    return Prediction(label, 0.0, 0.0, level, model)


def _answer(step: Hit) -> Answer:
    own = step.prediction
    return Answer(step.frame.index, own.label, 1.0, own.risk, own.level, own.model)


def _ruled(name: Trivial) -> Callable[[PolicyInputs, ModelTimer], DecisionPolicy]:
    return lambda kit, meter: Ruled(kit, trivial.rule(name, kit.student(), kit.settings[name]), meter)


def _alone(role: Literal["full", "base"]) -> Callable[[PolicyInputs, ModelTimer], DecisionPolicy]:
    def made(kit: PolicyInputs, meter: ModelTimer) -> Always:
        name = kit.manifest.only(role)
        return Always(kit, name, kit.whole if role == "full" else kit.seconds[name], meter)

    return made


_MAKE: dict[Policy, Callable[[PolicyInputs, ModelTimer], DecisionPolicy]] = {
    "cachenet": _cachenet,
    "cachenet-paper": Paper,
    "hold": _ruled("hold"),
    "difference": _ruled("difference"),
    "student": _ruled("student"),
    "student+hold": _ruled("student+hold"),
    "threshold-offload": lambda kit, meter: Ruled(
        kit, trivial.rule("student", kit.student(), {"sure": _SEDNA_CONFIDENCE}), meter
    ),
    "server-only": lambda kit, _meter: Asking(kit),
    "device-only": _alone("full"),
    "device-base": _alone("base"),
    "oracle": Oracle,
}
