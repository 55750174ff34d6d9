"""Replaying: the very hierarchy that runs on a device over a stream whose models have spoken already, and the reference
that its answers are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_agent.core.frame import Frame, Signature
from edge_agent.core.frames import FrameCache
from edge_agent.core.hierarchy import Hierarchy, Rules
from edge_agent.core.submodels import LocalModel, Submodels
from edge_agent.core.types import Answer, Ask, LevelName, LocalName, Reply, Step
from shared.bundle import Manifest, Model
from shared.context import Context, Memoryless
from shared.filter import Word
from shared.gate import posterior
from shared.habits import ContextParameters
from shared.reference import WINDOW, reference

#: What asking the cloud takes: long enough for any look of a local model to be worth its time.
ASKING_S = 0.5
Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recorded:
    """A stream as its models saw it. ``logits``: per model name ``(frames, classes)``. ``signatures``: None where the
    pictures of neighbouring frames have nothing to do with each other."""

    truth: npt.NDArray[np.int64]
    logits: dict[str, Logits]
    signatures: list[Signature] | None

    def frame(self, index: int) -> Frame:
        return Frame(index, index, None if self.signatures is None else self.signatures[index])


@dataclass(frozen=True)
class Family:
    """The models of a bundle as a replay needs them: ``temperatures``, ``coverage``, and ``seconds`` of a run, by name.
    ``general``: those of the ``submodels`` that are meant for all labels, in other sizes than the base model's."""

    full: str
    base: str
    submodels: tuple[str, ...]
    temperatures: dict[str, float]
    coverage: dict[str, npt.NDArray[np.float64]]
    seconds: dict[str, float]
    context: ContextParameters
    general: tuple[str, ...] = ()

    def generalists(self) -> Family:
        """Without those that are good at some labels: what these add to models of their sizes is the difference."""
        return replace(self, submodels=self.general)


def family(manifest: Manifest) -> Family:
    """What a replay needs of a finished bundle."""
    return family_of(manifest.models, manifest.context)


def of_one_size(manifest: Manifest) -> Family:
    """The submodels that are good at some labels, with the general model of their size in the base model's place; the
    whole family where they are of several sizes or of the base model's."""
    every, models = family(manifest), manifest.models
    special = tuple(name for name in every.submodels if name not in every.general)
    sizes = {models[name].macs for name in special}
    peers = [name for name in every.general if {models[name].macs} == sizes]
    return replace(every, base=peers[0], submodels=special, general=()) if peers else every


def family_of(models: Mapping[str, Model], context: ContextParameters) -> Family:
    """The same of models that are no bundle yet."""
    names: dict[str, list[str]] = {"full": [], "base": [], "submodel": []}
    for name, model in models.items():
        names[model.role].append(name)
    return Family(
        names["full"][0],
        names["base"][0],
        tuple(names["submodel"]),
        {name: model.temperature for name, model in models.items()},
        {name: np.array(model.coverage) for name, model in models.items()},
        {name: model.milliseconds / 1e3 for name, model in models.items()},
        context,
        tuple(name for name in names["submodel"] if not models[name].classes),
    )


@dataclass(frozen=True)
class Replay:
    """What a replay decided, per frame: ``labels`` ``(frames,)``, whether each was a ``hit``, the answers' levels."""

    labels: Labels
    hit: npt.NDArray[np.bool_]
    levels: list[LevelName] = field(default_factory=list)

    def false_hits(self, reference: npt.NDArray[np.int64]) -> float:
        """Share of all frames that are hits with another label than the reference's."""
        return float((self.hit & (self.labels != reference)).mean())


#: What decides over a stream, given what may be claimed, or for the paper's a threshold.
Rule = Callable[[Recorded, Family, float], Hierarchy]


def ours(stream: Recorded, family: Family, claim: float) -> Hierarchy:
    """A device's hierarchy with every submodel resident."""
    hierarchy = Hierarchy(
        _rules(family, claim),
        Context(_classes(stream), family.context),
        FrameCache() if stream.signatures is not None else None,
        Submodels(1 << 40, family.coverage[family.base]),
        _model(stream, family, family.base),
    )
    for name in family.submodels:
        hierarchy.install(_model(stream, family, name))
    return hierarchy


def paper(stream: Recorded, family: Family, threshold: float) -> Hierarchy:
    """The rule of CacheNet as published: one submodel, trusted where the entropy of what it says is low. Better off
    than on a device: the one is the best of all, and is there without having been fetched."""
    hierarchy = Hierarchy(
        _rules(family, 0.0, threshold),
        Memoryless(_classes(stream)),
        submodels=Submodels(1 << 40, np.zeros(_classes(stream))),
    )
    for name in family.submodels:
        if name not in family.general:
            hierarchy.install(_model(stream, family, name))
    return hierarchy


def full_alone(stream: Recorded, family: Family, context: ContextParameters, claim: float = 0.0) -> Hierarchy:
    """The full model on every frame, with a context of these parameters."""
    return Hierarchy(_rules(family, claim), Context(_classes(stream), context))


def run(stream: Recorded, family: Family, hierarchy: Hierarchy) -> Replay:
    """Run a hierarchy over a recorded stream, the cloud always there."""
    answers = [
        settle(stream, family, hierarchy, hierarchy.look(stream.frame(index), float(index)))
        for index in range(len(stream.truth))
    ]
    labels = np.array([answer.label for answer in answers], np.int64)
    hit = np.array([answer.hit for answer in answers], np.bool_)
    return Replay(labels, hit, [answer.level for answer in answers])


def reference_labels(stream: Recorded, family: Family) -> npt.NDArray[np.int64]:
    """What the reference says of every frame of a recorded stream."""
    frames = map(stream.frame, range(len(stream.truth)))
    signatures = [frame.signature for frame in frames]
    return reference_of(stream.logits[family.full], signatures, family.temperatures[family.full], family.context)


def reference_of(
    logits: Logits, signatures: Sequence[Signature | None], temperature: float, parameters: ContextParameters
) -> npt.NDArray[np.int64]:
    """What the full model with a context of its own makes of its ``logits`` ``(frames, classes)``, begun afresh every
    ``WINDOW`` frames: it never hears a local model, so a mistake that a cache has talked itself into shows."""
    everything = Context(logits.shape[1], parameters)
    labels = np.empty(len(logits), np.int64)
    for begin in range(0, len(logits), WINDOW):
        window = slice(begin, begin + WINDOW)
        pairs = zip(logits[window], signatures[window], strict=True)
        words = [Word(posterior(own, temperature), True, key) for own, key in pairs]
        labels[window] = reference(words, everything.habits.parameters)
        for index, word in enumerate(words, begin):
            everything.advance(index, word.key)
            everything.learn(everything.observe(word).label)
    return labels


def settle(stream: Recorded, family: Family, hierarchy: Hierarchy, step: Step) -> Answer:
    """End the frame of ``step``, the cloud always there."""
    index = step.frame.index
    reply = Reply(index, stream.logits[family.full][index])
    answer = hierarchy.settle(step, reply if isinstance(step, Ask) else None, index + ASKING_S)
    if answer.audit:
        hierarchy.audited(reply, float(index))
    return answer


def _rules(family: Family, claim: float, threshold: float | None = None) -> Rules:
    return Rules(claim, 1.0, family.full, family.temperatures[family.full], threshold)


def _classes(stream: Recorded) -> int:
    return int(next(iter(stream.logits.values())).shape[1])


def _model(stream: Recorded, family: Family, name: str) -> LocalModel:
    table = stream.logits[name]

    def score(view: Any) -> Logits:
        row: Logits = table[view]
        return row

    level: LocalName = "base" if name == family.base else "submodels"
    return LocalModel(
        name, score, family.temperatures[name], family.coverage[name], seconds=family.seconds[name], level=level
    )
