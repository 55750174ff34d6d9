"""The policies that are compared, as what a device decides with: all are driven by the same four calls, and all but the
trivial ones are the device's own hierarchy with other parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

import msgspec
import numpy as np
import numpy.typing as npt
from edge_agent.core.submodels import LocalModel

from edge_agent.composition import compose
from edge_agent.core.hierarchy import Hierarchy
from edge_agent.core.types import Answer, Guess, Hit, Judge, LocalName, Reply, Step
from edge_agent.deployment import GROWTH, ROOM
from edge_agent.settings import Settings
from shared.bundle import Gate, Manifest
from shared.cascade.frame import Frame, Signature
from shared.cascade.probability import softmax
from shared.risk import Belief
from simulator.film import Film

Policy = Literal[
    "ours",
    "ours-full",
    "generalist",
    "cachenet",
    "threshold-offload",
    "difference",
    "server+context",
    "server-only",
    "device-only",
    "device-base",
    "oracle",
]
POLICIES: tuple[Policy, ...] = get_args(Policy)
#: Confidence over which Sedna's joint inference keeps a frame on the device ("IBT", its examples' ``threshold_img``).
_CONFIDENT = 0.9
#: Mean square difference, grey levels, under which NoScope's detector takes a frame for the one before it.
_UNCHANGED = 10.0
#: What the frame cache takes for the same picture, and how many it knows (``FrameCache``).
_TOLERANCE, _KNOWN = 5.0, 64
#: Those of a device that may have the full model itself.
OWNING: tuple[Policy, ...] = ("ours", "generalist")
#: Those whose frames are signed and go through a context.
REMEMBERING: tuple[Policy, ...] = ("ours", "ours-full", "generalist", "server+context", "difference")


class Mind(Protocol):
    """What decides on a device: ``Hierarchy``, or what takes its place. See there."""

    wanted: str | None

    def look(self, frame: Frame, now: float) -> Step: ...

    def settle(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer: ...

    def late(self, reply: Reply, now: float) -> Answer | None: ...

    def audited(self, reply: Reply, now: float) -> None: ...

    def install(self, model: LocalModel) -> list[str]: ...


class Meter:
    """Seconds that models have run since it was last read."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        self._seconds += seconds

    def take(self) -> float:
        seconds, self._seconds = self._seconds, 0.0
        return seconds


@dataclass(frozen=True)
class Kit:
    """What minds are made of. ``seconds``: of one run on the device, by model, on so many ``threads``; ``whole``: of
    the full model on all of its processors. ``reference``: labels ``(frames,)``, for the oracle alone. ``name``: of the
    device, which its audits are drawn by. ``reached``: seconds on all processors until each cache between the full
    model's layers has answered, and last of those that none answers; empty without caches."""

    film: Film
    manifest: Manifest
    gate: Gate
    deadline: float
    seconds: dict[str, float]
    whole: float
    reference: npt.NDArray[np.int64]
    name: str = "device"
    threads: int = 1
    reached: tuple[float, ...] = ()

    def model(self, name: str, meter: Meter) -> LocalModel:
        """A model of the bundle, whose runs are counted."""
        table, model = self.film.pictures.logits[name], self.manifest.models[name]
        seconds = self.whole if model.role == "full" else self.seconds[name]

        def score(row: int) -> npt.NDArray[np.float32]:
            meter.add(seconds)
            said: npt.NDArray[np.float32] = table[row]
            return said

        level: LocalName = "base" if model.role == "base" else "submodels"
        coverage = np.array(model.coverage)
        judge = self._judge(meter) if model.role == "full" and self.reached else None
        return LocalModel(name, score, model.temperature, coverage, GROWTH * model.bytes, seconds, level, judge)

    def _judge(self, meter: Meter) -> Judge:
        """The full model with its caches."""
        through = self.film.pictures.through
        assert through is not None
        table = self.film.pictures.logits[self.manifest.only("full")]

        def judge(row: int, _recent: tuple[int, ...], risk: float) -> tuple[npt.NDArray[np.float32], float | None]:
            layer = int(through.layers[row])
            if layer < 0 or through.risks[row] > risk:  # the next cache might do, but that is not on the film
                meter.add(self.reached[-1])
                return table[row], None
            meter.add(self.reached[layer])
            return through.logits[row], float(through.risks[row])

        return judge

    def composed(self, meter: Meter, room: int = ROOM, **settings: Any) -> Hierarchy:
        """The hierarchy of a device with these ``settings``."""
        deadline_ms, budget = round(1000 * self.deadline), self.gate.max_false_hits
        own = Settings(device=self.name, deadline_ms=deadline_ms, max_false_hits=budget, **settings)
        if self.film.pictures.signatures is None:
            own = msgspec.structs.replace(own, levels=tuple(level for level in own.levels if level != "frames"))
        return compose(own, self.manifest, self.model(self.manifest.only("base"), meter), True, room)

    def of(self, policy: Policy) -> Kit:
        """As the policy finds it: the server of a generalist has no submodels that are meant for some labels, and
        CacheNet's has no others and recommends the best, for there is no base model that it must be better than."""
        models = self.manifest.models
        if policy == "generalist":
            models = {name: one for name, one in models.items() if not one.classes}
        if policy == "cachenet":
            base = self.manifest.only("base")
            none = (0.0,) * len(self.manifest.labels)
            models = {name: one for name, one in models.items() if one.classes or one.role != "submodel"}
            models = {**models, base: msgspec.structs.replace(models[base], coverage=none)}
        return replace(self, manifest=msgspec.structs.replace(self.manifest, models=models))


def mind(policy: Policy, kit: Kit, meter: Meter) -> Mind:
    """A device's mind, new."""
    return _MAKE[policy](kit, meter)


def _ours(kit: Kit, meter: Meter) -> Hierarchy:
    return kit.composed(meter)


def _paper(kit: Kit, meter: Meter) -> Hierarchy:
    """CacheNet as published (arXiv 2007.01793, section IV): a submodel, trusted where the entropy of what it says is
    low; the one that the server recommends takes its place. There is room for the largest."""
    room = max((GROWTH * kit.manifest.models[name].bytes for name in kit.manifest.submodels()), default=0)
    return kit.composed(meter, room, levels=("submodels", "cloud"), gate="entropy")


def _with_context(kit: Kit, meter: Meter) -> Hierarchy:
    return kit.composed(meter, levels=("cloud",))


def _server(kit: Kit, meter: Meter) -> Hierarchy:
    return kit.composed(meter, levels=("cloud",), context=False)


def _full_here(kit: Kit, meter: Meter) -> Always:
    return Always(kit, kit.manifest.only("full"), kit.whole, meter)


def _base_here(kit: Kit, meter: Meter) -> Always:
    name = kit.manifest.only("base")
    return Always(kit, name, kit.seconds[name], meter)


class Always:
    """One model of the device's own answers every frame; nothing is learned, nothing is wanted."""

    wanted: str | None = None

    def __init__(self, kit: Kit, name: str, seconds: float, meter: Meter) -> None:
        self._name, self._seconds, self._meter = name, seconds, meter
        self._labels, self._classes = kit.film.pictures.first[name], len(kit.manifest.labels)

    def look(self, frame: Frame, now: float) -> Step:  # noqa: ARG002
        self._meter.add(self._seconds)
        return Hit(frame, _certain(int(self._labels[frame.view]), self._classes, self._name), "base")

    def settle(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:  # noqa: ARG002
        assert isinstance(step, Hit)
        return _answer(step)

    def late(self, reply: Reply, now: float) -> Answer | None:  # noqa: ARG002
        return None

    def audited(self, reply: Reply, now: float) -> None:
        """There are no audits."""

    def install(self, model: LocalModel) -> list[str]:
        return [model.name]


class Filtered:
    """A filter before the server: what it lets through is asked about, the rest is answered here."""

    wanted: str | None = None

    def __init__(self, kit: Kit, server: Hierarchy) -> None:
        self._server, self._classes = server, len(kit.manifest.labels)

    def hit(self, frame: Frame) -> Hit | None:
        """The answer, if the filter has one."""
        raise NotImplementedError

    def look(self, frame: Frame, now: float) -> Step:
        return self.hit(frame) or self._server.look(frame, now)

    def settle(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:
        return _answer(step) if isinstance(step, Hit) else self._server.settle(step, reply, now, trouble)

    def late(self, reply: Reply, now: float) -> Answer | None:
        return self._server.late(reply, now)

    def audited(self, reply: Reply, now: float) -> None:
        self._server.audited(reply, now)

    def install(self, model: LocalModel) -> list[str]:
        return [model.name]


class Confident(Filtered):
    """A small model, trusted where its most probable label is probable enough: KubeEdge Sedna's joint inference."""

    def __init__(self, kit: Kit, meter: Meter) -> None:
        super().__init__(kit, _server(kit, meter))
        self._name = kit.manifest.only("base")
        self._logits, self._temperature = (
            kit.film.pictures.logits[self._name],
            kit.manifest.models[self._name].temperature,
        )
        self._seconds, self._meter = kit.seconds[self._name], meter

    def hit(self, frame: Frame) -> Hit | None:
        self._meter.add(self._seconds)
        word = softmax(self._logits[frame.view], self._temperature)
        label = int(word.argmax())
        return Hit(frame, _certain(label, self._classes, self._name), "base") if word[label] >= _CONFIDENT else None


class Difference(Filtered):
    """NoScope's difference detector (D. Kang et al., arXiv 1703.02529, section 5.1): a frame that is hardly another
    than the last that was asked about has its answer."""

    def __init__(self, kit: Kit, meter: Meter) -> None:
        super().__init__(kit, _server(kit, meter))
        self._last: tuple[Signature, int] | None = None

    def hit(self, frame: Frame) -> Hit | None:
        if self._last is None or frame.signature is None:
            return None
        before, label = self._last
        if float(np.mean((frame.signature.thumbnail - before.thumbnail) ** 2)) > _UNCHANGED:
            return None
        return Hit(frame, _certain(label, self._classes, "difference"), "frames")

    def settle(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:
        answer = super().settle(step, reply, now, trouble)
        if reply is not None and step.frame.signature is not None:
            self._last = step.frame.signature, answer.label
        return answer


class Oracle(Filtered):
    """The limit: a frame stays on the device wherever some local model's first label is the reference's, at the price
    of one run of the quickest that is right, or at none where the frame is as good as one of the last. The rest is
    the server's, with context."""

    def __init__(self, kit: Kit, meter: Meter) -> None:
        super().__init__(kit, _with_context(kit, meter))
        self._meter, self._reference = meter, kit.reference
        names = sorted((kit.manifest.only("base"), *kit.manifest.submodels()), key=kit.seconds.__getitem__)
        self._local = [(name, kit.seconds[name], kit.film.pictures.first[name]) for name in names]
        self._seen: deque[tuple[Signature, int]] = deque(maxlen=_KNOWN)

    def hit(self, frame: Frame) -> Hit | None:
        right = int(self._reference[frame.index])
        signature = frame.signature
        if signature is not None:
            known = any(
                label == right and float(np.abs(before.blocks - signature.blocks).max()) <= _TOLERANCE
                for before, label in self._seen
            )
            self._seen.append((signature, right))
            if known:
                return Hit(frame, _certain(right, self._classes, "frames"), "frames")
        for name, seconds, labels in self._local:
            if labels[frame.view] == right:
                self._meter.add(seconds)
                return Hit(frame, _certain(right, self._classes, name), "submodels")
        return None


def _certain(label: int, classes: int, model: str) -> Guess:
    """A guess that nobody doubts."""
    return Guess(Belief(np.eye(classes)[label], label, 0.0), model)


def _answer(step: Hit) -> Answer:
    guess = step.guess
    confidence = float(guess.belief.posterior[guess.label])
    return Answer(step.frame.index, guess.label, confidence, guess.belief.risk, step.level, guess.model)


_MAKE: dict[Policy, Callable[[Kit, Meter], Mind]] = {
    "ours": _ours,
    "ours-full": _ours,
    "generalist": _ours,  # of a kit without the others
    "cachenet": _paper,
    "threshold-offload": Confident,
    "difference": Difference,
    "server+context": _with_context,
    "server-only": _server,
    "device-only": _full_here,
    "device-base": _base_here,
    "oracle": Oracle,
}
