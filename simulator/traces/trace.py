"""A film: a stream of which every model has said already what it says of each picture, so that any number of policies
can be run over it in no time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cachenet.models.certify import recorded
from cachenet.models.certify.recorded import UNRELATED, Models
from cachenet.models.certify.replay import Logits
from cachenet.models.data import streams
from cachenet.models.data.cifar10 import Split
from cachenet.shared.cascade.frame import Frame, Signature
from cachenet.shared.inference.early_exit import EarlyExitModel, RequestContext
from cachenet.shared.inference.image import Picture, crop, encode, preprocessor
from cachenet.shared.media import recording as stream
from cachenet.shared.media.signature import sign

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Through:
    """How far each picture runs through a full model with caches between its layers, without context, a row each:
    ``layers``, the number of the cache that answers, -1 for the whole model; its ``logits`` ``(rows, classes)`` and
    ``risks``."""

    layers: Index
    logits: Logits
    risks: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pictures:
    """What there is to know of pictures without looking at them again, a row each. ``logits``: by model ``(rows,
    classes)``. ``nbytes``: of the picture as it goes over the wire. ``signatures``: of the pictures. ``through``: None
    where the full model has no early exits."""

    logits: dict[str, Logits]
    nbytes: Index
    signatures: Sequence[Signature]
    through: Through | None = None

    @cached_property
    def first(self) -> dict[str, Index]:
        """The first label of every model, ``(rows,)``."""
        return {name: logits.argmax(1) for name, logits in self.logits.items()}


@dataclass(frozen=True)
class Trace:
    """``rows`` ``(frames,)``: the picture that each frame shows. ``truth`` ``(frames,)``: None where nobody knows."""

    truth: Index | None
    rows: Index
    pictures: Pictures

    def __len__(self) -> int:
        return len(self.rows)

    def frame(self, index: int) -> Frame:
        """Its view is its picture's row."""
        row = int(self.rows[index])
        return Frame(index, row, self.pictures.signatures[row])

    def labels(self, model: str) -> Index:
        """The first label of ``model`` of every frame, ``(frames,)``."""
        return self.pictures.first[model][self.rows]


def shoot(
    name: streams.Name,
    seeds: Sequence[int],
    frames: int,
    split: Split,
    models: Models,
    full: str,
    advance: Callable[[], object] = lambda: None,
    dwell: int = streams.DWELL,
    layered: EarlyExitModel | None = None,
) -> list[Trace]:
    """A film of the stream for each seed, of pictures of ``split``. ``full``: the model that pictures are sent to;
    ``advance`` is called after each film. ``dwell``: see ``streams.plan``. ``layered``: that model with caches."""
    plans = [streams.plan(name, split.labels, seed, frames, dwell=dwell) for seed in seeds]
    films: list[Trace] = []
    if name in UNRELATED:  # every frame is one of the images as it is, and so looked at once for all films
        used = np.unique(np.concatenate([plan.source for plan in plans]))
        shared = _look(recorded.as_pictures(split.images[used]), models, full, layered)
        for plan in plans:
            films.append(Trace(plan.label, np.searchsorted(used, plan.source), shared))
            advance()
        return films
    for plan in plans:
        draw = streams.renderer(plan, split.images)
        looked = _look(map(draw, range(frames)), models, full, layered)
        films.append(Trace(plan.label, np.arange(frames), looked))
        advance()
    return films


def project(
    directory: Path,
    labels: Sequence[str],
    models: Models,
    full: str,
    advance: Callable[[], object] = lambda: None,
    layered: EarlyExitModel | None = None,
) -> Trace:
    """A film of a recorded stream. ``labels``: the models' own; ``advance`` is called after each frame. ``layered``:
    see ``shoot``. Raises ``StreamError``."""
    recording = stream.read(directory)

    def pictures() -> Iterator[Picture]:
        for index in range(recording.frames):
            yield stream.picture(directory, recording, index)
            advance()

    truth: Index | None = None
    if recording.truth is not None and set(recording.labels) <= set(labels):
        own = np.array([labels.index(label) for label in recording.labels], np.int64)
        truth = own[np.array(recording.truth)]
    looked = _look(pictures(), models, full, layered)
    return Trace(truth, np.arange(recording.frames), looked)


def _look(pictures: Iterable[Picture], models: Models, full: str, layered: EarlyExitModel | None = None) -> Pictures:
    """One picture after the other, as a device sees them: in company a runtime may compute other last bits."""
    prepare = {name: preprocessor(spec) for name, (_, spec) in models.items()}
    said: dict[str, list[Logits]] = {name: [] for name in models}
    nbytes, signatures, passed = [], [], []
    for picture in pictures:
        for name, (session, spec) in models.items():
            said[name].append(session.run(prepare[name](crop(picture, spec)))[0])
        if layered is not None:
            passed += layered.run(prepare[full](crop(picture, models[full][1])), [RequestContext()])
        nbytes.append(len(encode(crop(picture, models[full][1]))[1]))
        signatures.append(sign(picture))
    logits = {name: np.stack(rows) for name, rows in said.items()}
    through: Through | None = None
    if passed:
        layers = np.array([-1 if one.layer is None else one.layer for one in passed])
        through = Through(
            layers, np.stack([one.logits for one in passed]), np.array([one.risk or 0.0 for one in passed])
        )
    return Pictures(logits, np.array(nbytes, np.int64), signatures, through)
