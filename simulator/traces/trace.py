"""A trace: the outputs of all models for every picture of a stream. Policies are simulated on traces."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cachenet.models.certify.traces import UNRELATED, Logits, Models, as_pictures, open_models
from cachenet.models.data import streams
from cachenet.models.data.cifar10 import Images, Split
from cachenet.models.data.streams import StreamSchedule
from cachenet.shared.bundle.manifest import Bundle, ExitKind
from cachenet.shared.cascade.frame import Frame, Signature
from cachenet.shared.command.jobs import Run, in_process
from cachenet.shared.inference.early_exit import EarlyExitModel, RequestContext, load
from cachenet.shared.inference.exit_cost import ExitCostModel
from cachenet.shared.inference.image import Picture, crop, encode, preprocessor
from cachenet.shared.media import recording as stream
from cachenet.shared.media.signature import sign

Index = npt.NDArray[np.int64]
#: Kind of the early exits of a full model on the device.
EXIT_KIND: ExitKind = "gati"
#: Images of a job that runs all models over them.
_CHUNK = 125


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


@dataclass(frozen=True, eq=False)
class Recorder:
    """Runs models over pictures. A pickled copy carries the files of the bundle, and opens them where it arrives.

    Attributes:
        bundle: The bundle.
        models: Models to run.
        full: Name of the full model.
        exit_model: The full model with early exits.
        images: Images of generated streams ``(n, h, w, 3)``.
    """

    bundle: Bundle
    models: Models
    full: str
    exit_model: EarlyExitModel | None = None
    images: Images | None = None

    def run(self, pictures: Iterable[Picture]) -> PictureTable:
        """Run one picture at a time, as a device does: in a batch, the last bits of the logits may differ."""
        return _run_models(pictures, self.models, self.full, self.exit_model)

    def __reduce__(self) -> tuple[Any, ...]:
        root = self.bundle.directory
        files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        return _reopen, (files, tuple(self.models), self.full, self.exit_model is not None, self.images)


def _reopen(
    files: Mapping[str, bytes], names: Sequence[str], full: str, has_exits: bool, images: Images | None
) -> Recorder:
    """A recorder from the files of its bundle; see ``Recorder.__reduce__``."""
    with tempfile.TemporaryDirectory(prefix="cachenet-") as directory:
        for name, data in files.items():
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        bundle = Bundle(Path(directory))
        opened = open_models(bundle)
        exits = open_exits(bundle) if has_exits else None
    return Recorder(bundle, {name: opened[name] for name in names}, full, exits, images)


class _AlwaysProbed(ExitCostModel):
    """An exit that is looked up for every picture, whatever the measured times: they differ between runs."""

    @property
    def is_worthwhile(self) -> bool:
        return True


def open_exits(bundle: Bundle) -> EarlyExitModel | None:
    """The full model with its early exits, on the CPU; None without exits."""
    if EXIT_KIND not in bundle.manifest.layers:
        return None
    # The random number 1.0 excludes random complete runs, so that a trace is the same every time.
    loaded = load(bundle.manifest, EXIT_KIND, bundle.find, "cpu", 1, lambda: 1.0)
    for one in loaded.exits:
        one.cost = _AlwaysProbed()
    return loaded


def _record_images(recorder: Recorder, rows: Index) -> PictureTable:
    assert recorder.images is not None
    return recorder.run(as_pictures(recorder.images[rows]))


def _record_plan(recorder: Recorder, plan: StreamSchedule) -> PictureTable:
    assert recorder.images is not None
    return recorder.run(map(streams.renderer(plan, recorder.images), range(len(plan))))


def record_streams(
    name: streams.StreamName,
    seeds: Sequence[int],
    frames: int,
    split: Split,
    recorder: Recorder,
    advance: Callable[[], object] = lambda: None,
    dwell: int = streams.DWELL,
    run: Run = in_process,
) -> list[Trace]:
    """Run all models over generated streams.

    Args:
        name: Kind of stream.
        seeds: One stream is generated for each seed.
        frames: Length of each stream.
        split: Images that the streams show.
        recorder: Models to run.
        advance: Called after each stream.
        dwell: See ``streams.schedule``.
        run: Where the models run.
    """
    plans = [streams.schedule(name, split.labels, seed, frames, dwell=dwell) for seed in seeds]
    recorder = replace(recorder, images=split.images)
    traces: list[Trace] = []
    if name in UNRELATED:  # every frame is an unchanged image: run each image once for all streams
        used = np.unique(np.concatenate([plan.source for plan in plans]))
        chunks = np.array_split(used, -(-len(used) // _CHUNK))
        shared = _joined(list(run(_record_images, recorder, chunks)))
        for plan in plans:
            traces.append(Trace(plan.label, np.searchsorted(used, plan.source), shared))
            advance()
        return traces
    for plan, pictures in zip(plans, run(_record_plan, recorder, plans), strict=True):
        traces.append(Trace(plan.label, np.arange(frames), pictures))
        advance()
    return traces


def _joined(tables: Sequence[PictureTable]) -> PictureTable:
    """One table with the rows of all ``tables``."""
    exits = [one.exit_table for one in tables if one.exit_table is not None]
    return PictureTable(
        {name: np.concatenate([one.logits[name] for one in tables]) for name in tables[0].logits},
        np.concatenate([one.nbytes for one in tables]),
        [signature for one in tables for signature in one.signatures],
        ExitTable(
            np.concatenate([one.exits for one in exits]),
            np.concatenate([one.logits for one in exits]),
            np.concatenate([one.risks for one in exits]),
        )
        if exits
        else None,
    )


def record_directory(
    directory: Path,
    labels: Sequence[str],
    recorder: Recorder,
    advance: Callable[[], object] = lambda: None,
) -> Trace:
    """Run all models over a stream on disk.

    Args:
        directory: The stream.
        labels: Labels of the models.
        recorder: Models to run.
        advance: Called after each frame.

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
    return Trace(truth, np.arange(recording.frames), recorder.run(pictures()))


def _run_models(
    pictures: Iterable[Picture], models: Models, full: str, exit_model: EarlyExitModel | None
) -> PictureTable:
    """See ``Recorder.run``."""
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
