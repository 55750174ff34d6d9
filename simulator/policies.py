"""The policies that are compared, as what a device decides with: all are driven by the same four calls, and all but the
trivial ones are the device's own hierarchy with other parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from edge_agent.composition import compose
from edge_agent.core.frame import Frame, Signature
from edge_agent.core.hierarchy import Hierarchy
from edge_agent.core.submodels import LocalModel
from edge_agent.core.types import Answer, Guess, Hit, LocalName, Reply, Step
from edge_agent.settings import Settings
from shared.bundle import Gate, Manifest
from shared.risk import Belief
from simulator.film import Film

Policy = Literal[
    "ours",
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
#: A loaded model's resident size as a multiple of its file, and what submodels may cost together (``deployment``).
_GROWTH, _ROOM = 4, 256 << 20


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
    """What minds are made of. ``seconds``: of one run on the device, by model; ``whole``: of the full model on all of
    its processors. ``reference``: labels ``(frames,)``, for the oracle alone. ``name``: of the device, which its audits
    are drawn by."""

    film: Film
    manifest: Manifest
    gate: Gate
    deadline: float
    seconds: dict[str, float]
    whole: float
    reference: npt.NDArray[np.int64]
    name: str = "device"

    def model(self, name: str, meter: Meter) -> LocalModel:
        """A model of the bundle, whose runs are counted."""
        table, model = self.film.pictures.logits[name], self.manifest.models[name]
        seconds = self.seconds[name]

        def score(row: int) -> npt.NDArray[np.float32]:
            meter.add(seconds)
            said: npt.NDArray[np.float32] = table[row]
            return said

        level: LocalName = "base" if model.role == "base" else "submodels"
        coverage = np.array(model.coverage)
        return LocalModel(name, score, model.temperature, coverage, _GROWTH * model.bytes, seconds, level)

    def composed(self, meter: Meter, room: int = _ROOM, **settings: Any) -> Hierarchy:
        """The hierarchy of a device with these ``settings``."""
        own = Settings(device=self.name, max_false_hits=self.gate.max_false_hits, **settings)
        own = msgspec.structs.replace(own, deadline_ms=round(1000 * self.deadline))
        if self.film.pictures.signatures is None:
            own = msgspec.structs.replace(own, levels=tuple(level for level in own.levels if level != "frames"))
        return compose(own, self.manifest, self.model(self.manifest.only("base"), meter), True, room)

    def general(self) -> Kit:
        """Without the submodels that are meant for some labels."""
        models = {name: one for name, one in self.manifest.models.items() if not one.classes}
        return replace(self, manifest=msgspec.structs.replace(self.manifest, models=models))


def mind(policy: Policy, kit: Kit, meter: Meter) -> Mind:
    """A device's mind, new."""
    return _MAKE[policy](kit, meter)


def _ours(kit: Kit, meter: Meter) -> Hierarchy:
    return kit.composed(meter)


def _paper(kit: Kit, meter: Meter) -> Hierarchy:
    """CacheNet as published (arXiv 2007.01793, section IV): one submodel, trusted where the entropy of what it says is
    low; the one that the server recommends takes its place."""
    room = max((_GROWTH * kit.manifest.models[name].bytes for name in kit.manifest.submodels()), default=0)
    return kit.composed(meter, room, levels=("submodels", "cloud"), gate="entropy")


def _confident(kit: Kit, meter: Meter) -> Hierarchy:
    """A small model, trusted where its most probable label is probable enough: KubeEdge Sedna's joint inference."""
    hierarchy = kit.composed(meter, levels=("base", "cloud"), context=False)
    hierarchy.rules = replace(hierarchy.rules, threshold=1.0 - _CONFIDENT)
    return hierarchy


def _with_context(kit: Kit, meter: Meter) -> Hierarchy:
    return kit.composed(meter, levels=("cloud",))


def _server(kit: Kit, meter: Meter) -> Hierarchy:
    return kit.composed(meter, levels=("cloud",), context=False)


def _difference(kit: Kit, meter: Meter) -> Difference:
    return Difference(_server(kit, meter), len(kit.manifest.labels))


def _full_here(kit: Kit, meter: Meter) -> Always:
    return Always(kit, kit.manifest.only("full"), kit.whole, meter)


def _base_here(kit: Kit, meter: Meter) -> Always:
    name = kit.manifest.only("base")
    return Always(kit, name, kit.seconds[name], meter)


class _Simple:
    """A mind that learns nothing and wants nothing."""

    wanted: str | None = None

    def late(self, reply: Reply, now: float) -> Answer | None:  # noqa: ARG002
        return None

    def audited(self, reply: Reply, now: float) -> None:
        """There are no audits."""

    def install(self, model: LocalModel) -> list[str]:
        return [model.name]


class Always(_Simple):
    """One model of the device's own answers every frame."""

    def __init__(self, kit: Kit, name: str, seconds: float, meter: Meter) -> None:
        self._name, self._seconds, self._meter = name, seconds, meter
        self._labels, self._classes = kit.film.pictures.logits[name].argmax(1), len(kit.manifest.labels)

    def look(self, frame: Frame, now: float) -> Step:  # noqa: ARG002
        self._meter.add(self._seconds)
        return Hit(frame, _certain(int(self._labels[frame.view]), self._classes, self._name), "base")

    def settle(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:  # noqa: ARG002
        assert isinstance(step, Hit)
        return _answer(step)


class Difference(_Simple):
    """NoScope's difference detector (D. Kang et al., arXiv 1703.02529, section 5.1): a frame that is hardly another
    than the last that was asked about has its answer."""

    def __init__(self, server: Hierarchy, classes: int) -> None:
        self._server, self._classes = server, classes
        self._last: tuple[Signature, int] | None = None

    def look(self, frame: Frame, now: float) -> Step:
        if self._last is not None and frame.signature is not None:
            before, label = self._last
            if float(np.mean((frame.signature.thumbnail - before.thumbnail) ** 2)) <= _UNCHANGED:
                return Hit(frame, _certain(label, self._classes, "difference"), "frames")
        return self._server.look(frame, now)

    def settle(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:
        if isinstance(step, Hit):
            return _answer(step)
        answer = self._server.settle(step, reply, now, trouble)
        if reply is not None and step.frame.signature is not None:
            self._last = step.frame.signature, answer.label
        return answer


class Oracle(_Simple):
    """The limit: a frame stays on the device wherever some local model's first label is the reference's, at the price
    of one run of the quickest that is right. The rest is the server's, with context."""

    def __init__(self, kit: Kit, meter: Meter) -> None:
        self._meter, self._reference, self._classes = meter, kit.reference, len(kit.manifest.labels)
        self._server = _with_context(kit, meter)
        names = sorted((kit.manifest.only("base"), *kit.manifest.submodels()), key=kit.seconds.__getitem__)
        self._local = [(name, kit.seconds[name], kit.film.pictures.logits[name].argmax(1)) for name in names]

    def look(self, frame: Frame, now: float) -> Step:
        right = int(self._reference[frame.index])
        for name, seconds, labels in self._local:
            if labels[frame.view] == right:
                self._meter.add(seconds)
                return Hit(frame, _certain(right, self._classes, name), "submodels")
        return self._server.look(frame, now)

    def settle(self, step: Step, reply: Reply | None, now: float, trouble: str = "") -> Answer:
        return _answer(step) if isinstance(step, Hit) else self._server.settle(step, reply, now, trouble)


def _certain(label: int, classes: int, model: str) -> Guess:
    """A guess that nobody doubts."""
    return Guess(Belief(np.eye(classes)[label], label, 0.0), model)


def _answer(step: Hit) -> Answer:
    guess = step.guess
    confidence = float(guess.belief.posterior[guess.label])
    return Answer(step.frame.index, guess.label, confidence, guess.belief.risk, step.level, guess.model)


_MAKE: dict[Policy, Callable[[Kit, Meter], Mind]] = {
    "ours": _ours,
    "generalist": _ours,  # of a kit without the others
    "cachenet": _paper,
    "threshold-offload": _confident,
    "difference": _difference,
    "server+context": _with_context,
    "server-only": _server,
    "device-only": _full_here,
    "device-base": _base_here,
    "oracle": Oracle,
}
