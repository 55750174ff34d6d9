"""Streams whose models have been run already, and the very cascade that runs on a device over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from cachenet.shared.bundle.manifest import Manifest, Model
from cachenet.shared.cascade import replay
from cachenet.shared.cascade.build_cascade import build_cascade
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.distribution import Distribution
from cachenet.shared.cascade.frame import Frame, Signature
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.replay import ModelTrace, RecordedScores
from cachenet.shared.cascade.risk_estimator import Priors
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT, CascadeSpec
from cachenet.shared.cascade.types import LocalLevel

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

#: Room for all submodels at once, bytes.
_ROOM = 1 << 40


@dataclass(frozen=True)
class Recorded:
    """A stream as its models saw it.

    Attributes:
        truth: True labels ``(frames,)``.
        logits: Per model name ``(frames, classes)``.
        signatures: Of the pictures, one a frame.
    """

    truth: Labels
    logits: dict[str, Logits]
    signatures: list[Signature]

    def __len__(self) -> int:
        return len(self.truth)

    def frame(self, index: int) -> Frame:
        """Frame ``index``; its view is its place."""
        return Frame(index, index, self.signatures[index])

    def trace(self, family: Family) -> ModelTrace:
        """The same by the models' roles."""
        submodels = {name: self.logits[name] for name in family.submodels}
        return ModelTrace(self.logits[family.full], self.logits[family.base], self.signatures, submodels)


@dataclass(frozen=True)
class Family:
    """The models of a bundle as a replay needs them.

    Attributes:
        temperatures, coverage, seconds: By model name; ``seconds`` of one run.
        priors, distribution: See ``Manifest``.
        general: Those of the ``submodels`` that are meant for all labels, in other sizes than the base model's.
    """

    full: str
    base: str
    submodels: tuple[str, ...]
    temperatures: dict[str, float]
    coverage: dict[str, npt.NDArray[np.float64]]
    seconds: dict[str, float]
    priors: Priors = field(default_factory=dict)
    distribution: Distribution | None = None
    general: tuple[str, ...] = ()

    def generalists(self) -> Family:
        """Without those that are good at some labels: what these add to models of their sizes is the difference."""
        return replace(self, submodels=self.general)


def family(manifest: Manifest) -> Family:
    """What a replay needs of a finished bundle."""
    return replace(family_of(manifest.models), priors=manifest.priors, distribution=manifest.distribution)


def of_one_size(manifest: Manifest) -> Family:
    """The submodels that are good at some labels, with the general model of their size in the base model's place; the
    whole family where they are of several sizes or of the base model's."""
    every, models = family(manifest), manifest.models
    special = tuple(name for name in every.submodels if name not in every.general)
    sizes = {models[name].macs for name in special}
    peers = [name for name in every.general if {models[name].macs} == sizes]
    return replace(every, base=peers[0], submodels=special, general=()) if peers else every


def family_of(models: Mapping[str, Model]) -> Family:
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
        general=tuple(name for name in names["submodel"] if not models[name].classes),
    )


def cascade(
    stream: Recorded, family: Family, max_disagreement: float = MAX_DISAGREEMENT, audit_floor: float = 0.0
) -> Cascade:
    """A device's cascade over ``stream`` with every submodel resident."""
    spec = CascadeSpec(
        classes=stream.logits[family.full].shape[1],
        full_model=family.full,
        full_temperature=family.temperatures[family.full],
        priors=family.priors,
        distribution=family.distribution,
        max_disagreement=max_disagreement,
        audit_floor=audit_floor,
    )
    made = build_cascade(spec, _model(stream, family, family.base, "base"), _ROOM)
    for name in family.submodels:
        made.install(_model(stream, family, name, "submodels"))
    return made


def run(stream: Recorded, family: Family, cascade: Cascade) -> replay.Run:
    """Run a cascade over a recorded stream; the server answers every question."""
    return replay.run(cascade, stream.trace(family))


def _model(stream: Recorded, family: Family, name: str, level: LocalLevel) -> LocalModel:
    return LocalModel(
        name,
        RecordedScores(stream.logits[name]),
        family.temperatures[name],
        family.coverage[name],
        seconds=family.seconds[name],
        level=level,
    )
