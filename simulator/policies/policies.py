"""The decision policies that a comparison runs on a simulated device.

The same calls drive every policy and ``shared.cascade.cascade.Cascade``: ``lookup`` and ``complete`` for each frame,
``on_late_reply``, ``on_audit_reply`` and ``install`` in between. The policy ``cachenet`` is the cascade itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Protocol, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.edge_agent.device_cascade import build_device_cascade
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.updates.active_bundle import DEFAULT_SUBMODEL_BUDGET, RESIDENT_BYTES_PER_FILE_BYTE
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.cascade import RECENT_LABELS, Cascade
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.types import Answer, Hit, LocalLevel, Miss, Prediction, Reply, ScoreWithExits, Step
from cachenet.simulator.policies import trivial
from cachenet.simulator.policies.trivial import Rule, RuleInputs, Setting, Trivial
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
#: CacheNet's own policy.
CACHENET: Policy = "cachenet"
#: Confidence from which Sedna's joint inference keeps a frame on the device ("IBT", ``threshold_img`` of its examples).
_SEDNA_CONFIDENCE = 0.9
#: Requests at most whose late replies are still used.
_PENDING = 64


class DecisionPolicy(Protocol):
    """What decides on a device; see ``Cascade``."""

    pending_fetch: str | None

    def lookup(self, frame: Frame, now: float) -> Step: ...

    def complete(self, step: Step, reply: Reply | None, now: float, error: str = "") -> Answer: ...

    def on_late_reply(self, reply: Reply, now: float) -> Answer | None: ...

    def on_audit_reply(self, reply: Reply, now: float) -> None: ...

    def install(self, model: LocalModel) -> list[str]: ...


class ModelTimer:
    """Run time of models, seconds, since the last reading."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """Add one run."""
        self._seconds += seconds

    def take(self) -> float:
        """Read and reset."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


@dataclass(frozen=True)
class PolicyInputs:
    """The inputs that a device's policy is built from.

    Attributes:
        trace: Model outputs of the device's stream.
        manifest: The bundle's manifest.
        max_disagreement: Risk budget.
        deadline: Longest time of a frame, seconds.
        seconds: Run time by model, on ``threads`` processors of the device, seconds.
        full_seconds: Run time of the full model on all processors of the device, seconds.
        thresholds: Thresholds of the trivial policies.
        device: Name of the device, the seed of its audits.
        threads: Processors that a local model runs on.
        exit_seconds: Time on all processors until each early exit answers, last the time without an exit's answer;
            empty without early exits.
    """

    trace: Trace
    manifest: Manifest
    max_disagreement: float
    deadline: float
    seconds: dict[str, float]
    full_seconds: float
    thresholds: Mapping[Trivial, Setting] = field(default_factory=dict)
    device: str = "device"
    threads: int = 1
    exit_seconds: tuple[float, ...] = ()

    def model(self, name: str, timer: ModelTimer) -> LocalModel:
        """A model of the bundle with recorded logits, whose run time ``timer`` counts."""
        table, model = self.trace.pictures.logits[name], self.manifest.models[name]
        seconds = self.full_seconds if model.role == "full" else self.seconds[name]

        def score(row: int) -> npt.NDArray[np.float32]:
            timer.add(seconds)
            logits: npt.NDArray[np.float32] = table[row]
            return logits

        level: LocalLevel = "base" if model.role == "base" else "submodels"
        coverage = np.array(model.coverage)
        judge = self._judge(timer) if model.role == "full" and self.exit_seconds else None
        return LocalModel(
            name, score, model.temperature, coverage, RESIDENT_BYTES_PER_FILE_BYTE * model.bytes, seconds, level, judge
        )

    def _judge(self, timer: ModelTimer) -> ScoreWithExits:
        """The full model with its early exits."""
        exits = self.trace.pictures.exit_table
        assert exits is not None
        table = self.trace.pictures.logits[self.manifest.only("full")]

        def judge(row: int, _recent: tuple[int, ...], risk: float) -> tuple[npt.NDArray[np.float32], float | None]:
            number = int(exits.exits[row])
            if number < 0 or exits.risks[row] > risk:  # the trace does not hold the answers of later exits
                timer.add(self.exit_seconds[-1])
                return table[row], None
            timer.add(self.exit_seconds[number])
            return exits.logits[row], float(exits.risks[row])

        return judge

    @cached_property
    def rule_inputs(self) -> RuleInputs:
        """Inputs of the trivial policies."""
        base = self.manifest.only("base")
        return trivial.inputs_of(self.trace, base, self.manifest.models[base].temperature)

    def for_policy(self, policy: Policy) -> PolicyInputs:
        """The inputs as ``policy`` uses them.

        The server of ``cachenet-paper`` has only submodels of some labels. It recommends the best of them: there is no
        base model that a submodel must improve on.
        """
        if policy != "cachenet-paper":
            return self
        base = self.manifest.only("base")
        models = {name: one for name, one in self.manifest.models.items() if one.classes or one.role != "submodel"}
        none = (0.0,) * len(self.manifest.labels)
        models |= {base: msgspec.structs.replace(models[base], coverage=none)}
        return replace(self, manifest=msgspec.structs.replace(self.manifest, models=models))


def make_policy(policy: Policy, inputs: PolicyInputs, timer: ModelTimer) -> DecisionPolicy:
    """A new policy of a device."""
    return _MAKERS[policy](inputs, timer)


def _cachenet(inputs: PolicyInputs, timer: ModelTimer) -> Cascade:
    settings = Settings(
        device=inputs.device,
        deadline_ms=round(1000 * inputs.deadline),
        max_disagreement=inputs.max_disagreement,
    )
    base = inputs.model(inputs.manifest.only("base"), timer)
    return build_device_cascade(settings, inputs.manifest, base, True, DEFAULT_SUBMODEL_BUDGET)


class ServerOnly:
    """Ask the full model about every frame that ``local`` does not answer. The base class of other policies."""

    pending_fetch: str | None = None

    def __init__(self, inputs: PolicyInputs) -> None:
        self._full, self._deadline = inputs.manifest.only("full"), inputs.deadline
        self._recent: deque[int] = deque(maxlen=RECENT_LABELS)
        self._pending: deque[Frame] = deque(maxlen=_PENDING)

    def local(self, frame: Frame) -> Prediction | None:  # noqa: ARG002
        """The local answer. None: ask the full model."""
        return None

    def keep(self, frame: Frame, label: int) -> None:
        """Take the full model's ``label`` of ``frame``."""

    def lookup(self, frame: Frame, now: float) -> Step:
        if (prediction := self.local(frame)) is not None:
            return Hit(frame, prediction)
        fallback = Prediction(self._recent[-1] if self._recent else 0, 1.0, 1.0, "frames", self._full)
        return Miss(frame, tuple(self._recent), now, now + self._deadline, fallback, "asked")

    def complete(self, step: Step, reply: Reply | None, now: float, error: str = "") -> Answer:  # noqa: ARG002
        if isinstance(step, Hit):
            answer = _answer(step)
        elif reply is None:
            self._pending.append(step.frame)
            return Answer(step.frame.index, step.fallback.label, 0.0, 1.0, "fallback", self._full, error)
        else:
            self.keep(step.frame, reply.label)
            answer = Answer(step.frame.index, reply.label, 1.0, 0.0, "cloud", self._full, step.reason)
        assert answer.label is not None
        if not self._recent or self._recent[-1] != answer.label:
            self._recent.append(answer.label)
        return answer

    def on_late_reply(self, reply: Reply, now: float) -> Answer | None:  # noqa: ARG002
        frame = next((one for one in self._pending if one.index == reply.frame), None)
        if frame is not None:
            self._pending.remove(frame)
            self.keep(frame, reply.label)
        return None

    def on_audit_reply(self, reply: Reply, now: float) -> None:
        """Ignore: there are no audits."""

    def install(self, model: LocalModel) -> list[str]:
        return [model.name]


class Always(ServerOnly):
    """One local model answers every frame."""

    def __init__(self, inputs: PolicyInputs, name: str, seconds: float, timer: ModelTimer) -> None:
        super().__init__(inputs)
        self._name, self._seconds, self._timer = name, seconds, timer
        self._labels = inputs.trace.pictures.labels[name]

    def local(self, frame: Frame) -> Prediction | None:
        self._timer.add(self._seconds)
        return _without_risk(int(self._labels[frame.view]), "base", self._name)


class RulePolicy(ServerOnly):
    """A trivial policy; see ``simulator.policies.trivial``."""

    def __init__(self, inputs: PolicyInputs, rule: Rule, runs_base: bool, timer: ModelTimer) -> None:
        super().__init__(inputs)
        self._rule, self._timer = rule, timer
        self._base = inputs.manifest.only("base")
        self._seconds = inputs.seconds[self._base] if runs_base else 0.0

    def local(self, frame: Frame) -> Prediction | None:
        self._timer.add(self._seconds)
        found = self._rule.answer(frame.index, frame.view)
        return None if found is None else _without_risk(*found, self._base if found[1] == "base" else self._full)

    def keep(self, frame: Frame, label: int) -> None:
        self._rule.keep(frame.index, frame.view, label)


class Paper(ServerOnly):
    """CacheNet as published (arXiv 2007.01793, section IV).

    The device has one submodel, whose answer counts where the entropy of its softmax is small enough. A recommended
    submodel replaces the present one.
    """

    def __init__(self, inputs: PolicyInputs, timer: ModelTimer) -> None:  # noqa: ARG002
        super().__init__(inputs)
        self._most_entropy = inputs.manifest.entropy
        self._submodel: LocalModel | None = None

    def local(self, frame: Frame) -> Prediction | None:
        outcome = None if self._submodel is None else self._submodel.run(frame.view)
        if self._submodel is None or outcome is None:
            return None
        _, probabilities = outcome
        entropy = -float((probabilities * np.log(np.maximum(probabilities, 1e-300))).sum())
        if entropy > self._most_entropy:
            return None
        return _without_risk(int(probabilities.argmax()), "submodels", self._submodel.name)

    def complete(self, step: Step, reply: Reply | None, now: float, error: str = "") -> Answer:
        if reply is not None:
            self._recommend(reply.submodel)
        return super().complete(step, reply, now, error)

    def on_late_reply(self, reply: Reply, now: float) -> Answer | None:
        self._recommend(reply.submodel)
        return super().on_late_reply(reply, now)

    def install(self, model: LocalModel) -> list[str]:
        replaced = [] if self._submodel is None else [self._submodel.name]
        self._submodel, self.pending_fetch = model, None
        return replaced

    def _recommend(self, name: str | None) -> None:
        if name is not None and (self._submodel is None or self._submodel.name != name):
            self.pending_fetch = name


class Oracle(ServerOnly):
    """The bound: ask exactly where neither the last answer of the full model nor a local model's label is the full
    model's answer. A local answer costs one run of the quickest model that is right; a held answer costs nothing."""

    def __init__(self, inputs: PolicyInputs, timer: ModelTimer) -> None:
        super().__init__(inputs)
        labels = inputs.trace.pictures.labels
        self._timer, self._reference, self._last = timer, labels[self._full], -1
        names = sorted((inputs.manifest.only("base"), *inputs.manifest.submodels()), key=inputs.seconds.__getitem__)
        self._models = [(name, inputs.seconds[name], labels[name]) for name in names]

    def local(self, frame: Frame) -> Prediction | None:
        reference = int(self._reference[frame.view])
        if reference == self._last:
            return _without_risk(reference, "frames", self._full)
        for name, seconds, labels in self._models:
            if labels[frame.view] == reference:
                self._timer.add(seconds)
                return _without_risk(reference, "submodels", name)
        return None

    def keep(self, frame: Frame, label: int) -> None:  # noqa: ARG002
        self._last = label


def _without_risk(label: int, level: LocalLevel, model: str) -> Prediction:
    """A prediction of a policy that states no risk."""
    return Prediction(label, 0.0, 0.0, level, model)


def _answer(step: Hit) -> Answer:
    own = step.prediction
    return Answer(step.frame.index, own.label, 1.0, own.risk, own.level, own.model)


def _rule(name: Trivial, setting: Setting | None = None) -> Callable[[PolicyInputs, ModelTimer], DecisionPolicy]:
    """The maker of a trivial policy; ``setting``: None: the thresholds of the inputs."""

    def make(inputs: PolicyInputs, timer: ModelTimer) -> RulePolicy:
        rule = trivial.rule(name, inputs.rule_inputs, setting or inputs.thresholds[name])
        return RulePolicy(inputs, rule, trivial.runs_base(name), timer)

    return make


def _always(role: Literal["full", "base"]) -> Callable[[PolicyInputs, ModelTimer], DecisionPolicy]:
    def make(inputs: PolicyInputs, timer: ModelTimer) -> Always:
        name = inputs.manifest.only(role)
        return Always(inputs, name, inputs.full_seconds if role == "full" else inputs.seconds[name], timer)

    return make


_MAKERS: dict[Policy, Callable[[PolicyInputs, ModelTimer], DecisionPolicy]] = {
    "cachenet": _cachenet,
    "cachenet-paper": Paper,
    "hold": _rule("hold"),
    "difference": _rule("difference"),
    "student": _rule("student"),
    "student+hold": _rule("student+hold"),
    "threshold-offload": _rule("student", {"sure": _SEDNA_CONFIDENCE}),
    "server-only": lambda inputs, _timer: ServerOnly(inputs),
    "device-only": _always("full"),
    "device-base": _always("base"),
    "oracle": Oracle,
}
