"""A trace: the outputs of all models for every picture of a stream. Policies are simulated on traces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cachenet.models.certify.traces import UNRELATED, Logits, Models, as_pictures
from cachenet.models.data import streams
from cachenet.models.data.cifar10 import Split
from cachenet.shared.cascade.frame import Frame, Signature
from cachenet.shared.inference.early_exit import EarlyExitModel, RequestContext
from cachenet.shared.inference.image import Picture, crop, encode, preprocessor
from cachenet.shared.media import recording as stream
from cachenet.shared.media.signature import sign

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ExitTable:
    """Results of a full model with early exits, without context, one row a picture.

    Attributes:
        exits: Number of the exit that answers ``(rows,)``; -1: no exit answers.
        logits: Logits of the answer ``(rows, classes)``.
        risks: Risk of the answer ``(rows,)``.
    """

    exits: Index
    logits: Logits
    risks: npt.NDArray[np.float64]


@dataclass(frozen=True)
class PictureTable:
    """Everything that a simulation needs of pictures, one row a picture.

    Attributes:
        logits: Logits ``(rows, classes)`` by model.
        nbytes: Size of the encoded picture that a request carries ``(rows,)``.
        signatures: Signatures of the pictures.
        exit_table: None: the full model has no early exits.
    """

    logits: dict[str, Logits]
    nbytes: Index
    signatures: Sequence[Signature]
    exit_table: ExitTable | None = None

    @cached_property
    def labels(self) -> dict[str, Index]:
        """The most probable label ``(rows,)`` by model."""
        return {name: logits.argmax(1) for name, logits in self.logits.items()}


@dataclass(frozen=True)
class Trace:
    """Model outputs of one stream.

    Attributes:
        truth: True labels ``(frames,)``; None: unknown.
        rows: Row of ``pictures`` that each frame shows ``(frames,)``.
        pictures: The outputs.
    """

    truth: Index | None
    rows: Index
    pictures: PictureTable

    def __len__(self) -> int:
        return len(self.rows)

    def frame(self, index: int) -> Frame:
        """Frame ``index``. Its view is the row of its picture."""
        row = int(self.rows[index])
        return Frame(index, row, self.pictures.signatures[row])

    def labels(self, model: str) -> Index:
        """The most probable label of ``model`` for every frame ``(frames,)``."""
        return self.pictures.labels[model][self.rows]


def record_streams(
    name: streams.StreamName,
    seeds: Sequence[int],
    frames: int,
    split: Split,
    models: Models,
    full: str,
    advance: Callable[[], object] = lambda: None,
    dwell: int = streams.DWELL,
    exit_model: EarlyExitModel | None = None,
) -> list[Trace]:
    """Run all models over generated streams.

    Args:
        name: Kind of stream.
        seeds: One stream is generated for each seed.
        frames: Length of each stream.
        split: Images that the streams show.
        models: Models to run.
        full: Name of the full model.
        advance: Called after each stream.
        dwell: See ``streams.schedule``.
        exit_model: The full model with early exits.
    """
    plans = [streams.schedule(name, split.labels, seed, frames, dwell=dwell) for seed in seeds]
    traces: list[Trace] = []
    if name in UNRELATED:  # every frame is an unchanged image: run each image once for all streams
        used = np.unique(np.concatenate([plan.source for plan in plans]))
        shared = _run_models(as_pictures(split.images[used]), models, full, exit_model)
        for plan in plans:
            traces.append(Trace(plan.label, np.searchsorted(used, plan.source), shared))
            advance()
        return traces
    for plan in plans:
        draw = streams.renderer(plan, split.images)
        pictures = _run_models(map(draw, range(frames)), models, full, exit_model)
        traces.append(Trace(plan.label, np.arange(frames), pictures))
        advance()
    return traces


def record_directory(
    directory: Path,
    labels: Sequence[str],
    models: Models,
    full: str,
    advance: Callable[[], object] = lambda: None,
    exit_model: EarlyExitModel | None = None,
) -> Trace:
    """Run all models over a stream on disk.

    Args:
        directory: The stream.
        labels: Labels of the models.
        models: Models to run.
        full: Name of the full model.
        advance: Called after each frame.
        exit_model: The full model with early exits.

    Raises:
        StreamError: The stream cannot be read.
    """
    recording = stream.read(directory)

    def pictures() -> Iterator[Picture]:
        for index in range(recording.frames):
            yield stream.picture(directory, recording, index)
            advance()

    truth: Index | None = None
    if recording.truth is not None and set(recording.labels) <= set(labels):
        numbers = np.array([labels.index(label) for label in recording.labels], np.int64)
        truth = numbers[np.array(recording.truth)]
    table = _run_models(pictures(), models, full, exit_model)
    return Trace(truth, np.arange(recording.frames), table)


def _run_models(
    pictures: Iterable[Picture], models: Models, full: str, exit_model: EarlyExitModel | None
) -> PictureTable:
    """Run one picture at a time, as a device does: in a batch, the last bits of the logits may differ."""
    prepare = {name: preprocessor(spec) for name, (_, spec) in models.items()}
    logits: dict[str, list[Logits]] = {name: [] for name in models}
    nbytes, signatures, exits = [], [], []
    for picture in pictures:
        for name, (session, spec) in models.items():
            logits[name].append(session.run(prepare[name](crop(picture, spec)))[0])
        cropped = crop(picture, models[full][1])
        if exit_model is not None:
            exits += exit_model.run(prepare[full](cropped), [RequestContext()])
        nbytes.append(len(encode(cropped)[1]))
        signatures.append(sign(picture))
    exit_table: ExitTable | None = None
    if exits:
        numbers = np.array([-1 if one.layer is None else one.layer for one in exits])
        risks = np.array([one.risk or 0.0 for one in exits])
        exit_table = ExitTable(numbers, np.stack([one.logits for one in exits]), risks)
    return PictureTable(
        {name: np.stack(rows) for name, rows in logits.items()}, np.array(nbytes, np.int64), signatures, exit_table
    )
