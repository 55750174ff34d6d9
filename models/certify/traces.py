"""Recorded model outputs: models run once over pictures, and the device's cascade replayed over their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.models.data import streams
from cachenet.models.data.cifar10 import Images, Split
from cachenet.shared.bundle.manifest import Bundle, Manifest, Model
from cachenet.shared.cascade import replay as cascade_replay
from cachenet.shared.cascade.build_cascade import build_cascade
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.distribution import Distribution
from cachenet.shared.cascade.frame import Frame, Signature
from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.replay import ModelTrace, RecordedScores
from cachenet.shared.cascade.risk_estimator import Priors
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT, CascadeSpec
from cachenet.shared.cascade.types import LocalLevel
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input, Picture, Tensor, crop, preprocessor
from cachenet.shared.media.signature import sign

Logits = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
#: By model name: the session that runs it, and how its pictures are prepared.
Models = Mapping[str, tuple[Session, Input]]

#: Pictures in one run of a model.
_BATCH = 100
#: Streams that show unrelated pictures as they are, one a frame.
UNRELATED: tuple[streams.StreamName, ...] = ("shuffled", "session", "dwell")
#: Memory budget of a replayed device, bytes: room for all submodels.
_MEMORY_BUDGET = 1 << 40


@dataclass(frozen=True)
class RecordedStream:
    """A stream, and the outputs of models for each of its frames.

    Attributes:
        truth: True labels ``(frames,)``.
        logits: By model name, ``(frames, classes)`` each.
        signatures: Of the pictures, one a frame.
    """

    truth: Labels
    logits: dict[str, Logits]
    signatures: list[Signature]

    def __len__(self) -> int:
        return len(self.truth)

    def frame(self, index: int) -> Frame:
        """Frame ``index``; its view is its index."""
        return Frame(index, index, self.signatures[index])

    def trace(self, family: ModelFamily) -> ModelTrace:
        """The outputs of ``family``, by role."""
        submodels = {name: self.logits[name] for name in family.submodels}
        return ModelTrace(self.logits[family.full], self.logits[family.base], self.signatures, submodels)


@dataclass(frozen=True)
class ModelFamily:
    """The models of a bundle, as a replay needs them.

    Attributes:
        temperatures, coverage: By model name; see ``Model``.
        seconds: Time of one run, by model name.
        priors, distribution: See ``Manifest``.
        general: Those of ``submodels`` that are for all labels, of other sizes than the base model.
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

    def general_only(self) -> ModelFamily:
        """The family without its submodels for some labels."""
        return replace(self, submodels=self.general)


def family_of(manifest: Manifest) -> ModelFamily:
    """The models of a finished bundle."""
    return replace(uncertified_family(manifest.models), priors=manifest.priors, distribution=manifest.distribution)


def same_size_family(manifest: Manifest) -> ModelFamily:
    """The submodels for some labels, with the general model of their size as the base model; or the whole family."""
    whole, models = family_of(manifest), manifest.models
    special = tuple(name for name in whole.submodels if name not in whole.general)
    sizes = {models[name].macs for name in special}
    peers = [name for name in whole.general if {models[name].macs} == sizes]
    return replace(whole, base=peers[0], submodels=special, general=()) if peers else whole


def uncertified_family(models: Mapping[str, Model]) -> ModelFamily:
    """The models of a bundle under construction: no priors and no distribution yet."""
    names: dict[str, list[str]] = {"full": [], "base": [], "submodel": []}
    for name, model in models.items():
        names[model.role].append(name)
    return ModelFamily(
        names["full"][0],
        names["base"][0],
        tuple(names["submodel"]),
        {name: model.temperature for name, model in models.items()},
        {name: np.array(model.coverage) for name, model in models.items()},
        {name: model.milliseconds / 1e3 for name, model in models.items()},
        general=tuple(name for name in names["submodel"] if not models[name].classes),
    )


def open_models(bundle: Bundle, threads: int = 1) -> Models:
    """All models of a bundle, on the CPU."""
    return {
        name: (Session(bundle.path(name), "cpu", threads), model.input)
        for name, model in bundle.manifest.models.items()
    }


def run_model(session: Session, spec: Input, pictures: Iterable[Picture], cropped_by: Input | None = None) -> Logits:
    """Logits ``(n, classes)`` of pictures of any size, BGR. ``cropped_by``: see ``view``."""
    return run_models({"": (session, spec)}, pictures, cropped_by)[""]


def run_models(models: Models, pictures: Iterable[Picture], cropped_by: Input | None = None) -> dict[str, Logits]:
    """Logits of every model for the pictures, by model name. ``cropped_by``: see ``view``."""
    found: dict[str, list[Logits]] = {name: [] for name in models}
    remaining = iter(pictures)
    while batch := list(islice(remaining, _BATCH)):
        prepared: dict[Input, Tensor] = {}
        for name, (session, spec) in models.items():
            if spec not in prepared:
                prepare = preprocessor(spec)
                prepared[spec] = np.concatenate([prepare(view(one, spec, cropped_by)) for one in batch])
            tensor = prepared[spec]
            step = session.batch or len(tensor)
            found[name] += [session.run(tensor[first : first + step]) for first in range(0, len(tensor), step)]
    return {name: np.concatenate(parts) for name, parts in found.items()}


def view(picture: Picture, spec: Input, cropped_by: Input | None) -> Picture:
    """The part of a picture that a model sees.

    Args:
        spec: Input of the model.
        cropped_by: Input of a model that has already cropped pictures of its size. Of such a picture, the model sees
            the part that it would have seen of the frame, or all if that part is larger.
    """
    if cropped_by is None or spec == cropped_by or picture.shape[1::-1] != cropped_by.size:
        return crop(picture, spec)
    share = min(1.0, spec.crop / cropped_by.crop)
    width, height = (round(side * share) for side in cropped_by.size)
    left, top = (cropped_by.size[0] - width) // 2, (cropped_by.size[1] - height) // 2
    return crop(picture[top : top + height, left : left + width], msgspec.structs.replace(spec, crop=1.0))


def as_pictures(images: Images) -> list[Picture]:
    """Images ``(n, h, w, 3)`` RGB as pictures, BGR."""
    return list(np.ascontiguousarray(images[:, :, :, ::-1]))


def record_streams(
    schedules: Sequence[streams.StreamSchedule],
    split: Split,
    models: Models,
    advance: Callable[[], object] = lambda: None,
    cropped_by: Input | None = None,
) -> list[RecordedStream]:
    """Run every model over every frame of ``schedules``, drawn from ``split``.

    Args:
        advance: Called after each stream.
        cropped_by: Input of the model that has cropped the images of ``split``; see ``view``.
    """
    recordings = []
    whole: RecordedStream | None = None
    for schedule in schedules:
        if schedule.name in UNRELATED:  # each image is run once for all streams
            if whole is None:
                whole = record_pictures(as_pictures(split.images), split.labels, models, cropped_by)
            recordings.append(select(whole, schedule.source, schedule.label))
        else:
            draw = streams.renderer(schedule, split.images)
            recordings.append(record_pictures(map(draw, range(len(schedule))), schedule.label, models, cropped_by))
        advance()
    return recordings


def record_pictures(
    pictures: Iterable[Picture], truth: Labels, models: Models, cropped_by: Input | None = None
) -> RecordedStream:
    """Run every model over consecutive pictures, a batch at a time. ``cropped_by``: see ``view``."""
    signatures: list[Signature] = []

    def signed() -> Iterator[Picture]:
        for picture in pictures:
            signatures.append(sign(picture))
            yield picture

    return RecordedStream(truth, run_models(models, signed(), cropped_by), signatures)


def select(stream: RecordedStream, rows: Labels, truth: Labels) -> RecordedStream:
    """The stream that shows the frames ``rows`` of ``stream`` in that order. ``truth``: its labels ``(rows,)``."""
    logits = {name: own[rows] for name, own in stream.logits.items()}
    return RecordedStream(truth, logits, [stream.signatures[row] for row in rows.tolist()])


def device_cascade(
    stream: RecordedStream, family: ModelFamily, max_disagreement: float = MAX_DISAGREEMENT, audit_floor: float = 0.0
) -> Cascade:
    """The cascade of a device that sees ``stream`` and has every submodel in memory."""
    spec = CascadeSpec(
        classes=stream.logits[family.full].shape[1],
        full_model=family.full,
        full_temperature=family.temperatures[family.full],
        priors=family.priors,
        distribution=family.distribution,
        max_disagreement=max_disagreement,
        audit_floor=audit_floor,
    )
    cascade = build_cascade(spec, _local_model(stream, family, family.base, "base"), _MEMORY_BUDGET)
    for name in family.submodels:
        cascade.install(_local_model(stream, family, name, "submodels"))
    return cascade


def replay(stream: RecordedStream, family: ModelFamily, cascade: Cascade) -> cascade_replay.Run:
    """Run a cascade over a recorded stream; the server answers every request."""
    return cascade_replay.run(cascade, stream.trace(family))


def _local_model(stream: RecordedStream, family: ModelFamily, name: str, level: LocalLevel) -> LocalModel:
    return LocalModel(
        name,
        RecordedScores(stream.logits[name]),
        family.temperatures[name],
        family.coverage[name],
        seconds=family.seconds[name],
        level=level,
    )
