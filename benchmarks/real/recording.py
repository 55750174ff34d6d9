"""Recorded model outputs and pictures of a task's frames, cached in the user's cache directory.

Pictures are preprocessed as builder, agent and server do.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from benchmarks.real.task import Task, TaskError
from cachenet.models.export import metadata
from cachenet.models.export.classifier import Classifier, load_classifier, parse_preprocessing, serving_graph
from cachenet.models.export.onnx_file import ClassifierError, load, properties
from cachenet.shared.bundle.manifest import file_digest
from cachenet.shared.cascade.frame import Signature
from cachenet.shared.command import atomic_files
from cachenet.shared.inference import image
from cachenet.shared.inference.engine import EngineError, ModelPart
from cachenet.shared.inference.image import Input, Picture, crop, preprocessor
from cachenet.shared.media import signature as signing
from cachenet.shared.media.signature import sign
from cachenet.shared.media.video import BadVideo, Video

#: Size of the grey pictures that ``difference`` compares, pixels.
_GREY = (96, 96)
_FIELDS = ("full", "base", "grey", "blocks", "thumbnails", "full_ms", "base_ms", "grey_ms", "sign_ms")


@dataclass(frozen=True, eq=False)
class Recording:
    """Model outputs and pictures of consecutive frames of one task.

    Attributes:
        full: Logits of the full model ``(n, classes)`` float32.
        base: Logits of the base model ``(n, classes)`` float32.
        grey: Grey pictures of the region ``(n, 96, 96)`` uint8.
        blocks, thumbnails: Parts of the signatures, ``(n, 12, 16)`` and ``(n, 24, 32)`` float32.
        full_ms, base_ms: Run time of each model, preprocessing included, one thread, milliseconds ``(n,)``.
        grey_ms, sign_ms: Time of the grey picture and of the signature, milliseconds ``(n,)``.
    """

    full: npt.NDArray[np.float32]
    base: npt.NDArray[np.float32]
    grey: npt.NDArray[np.uint8]
    blocks: npt.NDArray[np.float32]
    thumbnails: npt.NDArray[np.float32]
    full_ms: npt.NDArray[np.float64]
    base_ms: npt.NDArray[np.float64]
    grey_ms: npt.NDArray[np.float64]
    sign_ms: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.full)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Most probable labels of the full model ``(n,)``."""
        return np.asarray(self.full.argmax(1), np.int64)

    @cached_property
    def small(self) -> npt.NDArray[np.float32]:
        """Mean grey levels of 12x12 blocks ``(n, 12, 12)``."""
        return self.grey.reshape(len(self), 12, 8, 12, 8).mean((2, 4), dtype=np.float32)  # type: ignore[no-any-return]

    @property
    def signatures(self) -> list[Signature]:
        """Signatures of the frames."""
        return [Signature(*pair) for pair in zip(self.blocks, self.thumbnails, strict=True)]

    def part(self, first: int, end: int) -> Recording:
        """The frames from ``first`` to before ``end``."""
        return Recording(**{name: getattr(self, name)[first:end] for name in _FIELDS})


@dataclass(frozen=True, eq=False)
class Recordings:
    """Recordings of a task's ranges of frames; see ``Task``."""

    held_out: Recording
    tune: Recording
    play: Recording


def record(
    task: Task, cache: Path | None = None, advance: Callable[[int, int], object] = lambda _n, _of: None
) -> Recordings:
    """Run both models over the frames of ``task``, or read the cached recording.

    Args:
        task: The task.
        cache: Directory of cached recordings; None: ``directory()``.
        advance: Called with the number of frames done and of all frames.

    Raises:
        TaskError: The video, the region or a model does not fit.
    """
    try:
        full, base = _models(task)
        ranges = {"held_out": task.held_out, "tune": task.tune, "play": task.play}
        wanted = sorted({frame for first, end in ranges.values() for frame in range(first, end)})
        path = (cache or directory()) / f"{_key(task, full.input, base.input, wanted)}.npz"
        recorded = _cached(path, len(wanted))
        if recorded is None:
            recorded = _run(task, full, base, wanted, advance)
            _save(path, recorded)
    except (ClassifierError, EngineError, BadVideo, TaskError) as error:
        raise TaskError(f"{task.file}: {error}") from None
    if task.truth is not None and task.truth.max() >= recorded.full.shape[1]:
        raise TaskError(f"{task.file}: truth: label {task.truth.max()} of a model with {recorded.full.shape[1]} labels")
    place = {frame: at for at, frame in enumerate(wanted)}
    return Recordings(**{key: recorded.part(place[first], place[end - 1] + 1) for key, (first, end) in ranges.items()})


def directory() -> Path:
    """Directory of cached recordings in the user's cache directory."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cachenet" / "real"


def _models(task: Task) -> tuple[Classifier, Classifier]:
    """The full and the base model. The base model's preprocessing is that of its metadata, or else the full model's."""
    full = load_classifier(task.full, parse_preprocessing(task.preprocessing))
    declared = metadata.read_preprocessing(task.base.name, properties(load(task.base)))
    base = load_classifier(task.base, declared or full.input, role="base")
    count = len(task.labels or full.labels)
    for one in (full, base):
        if len(one.labels) != count:
            raise TaskError(f"{one.path.name} has {len(one.labels)} scores for {count} labels")
    named = [("labels", task.labels), (full.path.name, _named(full)), (base.path.name, _named(base))]
    (first, labels), *others = [pair for pair in named if pair[1]] or [("", ())]
    for other, own in others:
        if own != labels:
            raise TaskError(f"{first} and {other} differ: {', '.join(labels)[:80]}; {', '.join(own)[:80]}")
    return full, base


def _named(model: Classifier) -> tuple[str, ...]:
    """The labels in the model's file; empty if they are only numbers."""
    return model.labels if model.labels != tuple(map(str, range(len(model.labels)))) else ()


def _run(
    task: Task, full: Classifier, base: Classifier, wanted: list[int], advance: Callable[[int, int], object]
) -> Recording:
    runs = [
        _timed(ModelPart(serving_graph(one, {}).SerializeToString(), one.path.name, "cpu"), one.input)
        for one in (full, base)
    ]
    columns: dict[str, list[Any]] = {name: [] for name in _FIELDS}
    for number, picture in enumerate(_regions(task, wanted), 1):
        if number == 1:
            for run in runs:
                run(picture)  # warm up: the first run is slower
        for name, run in zip(("full", "base"), runs, strict=True):
            scores, took_ms = run(picture)
            columns[name].append(scores)
            columns[f"{name}_ms"].append(took_ms)
        begun = time.perf_counter()
        grey = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), _GREY, interpolation=cv2.INTER_AREA)
        converted = time.perf_counter()
        signature = sign(picture)
        signed = time.perf_counter()
        columns["grey"].append(grey)
        columns["grey_ms"].append(1000 * (converted - begun))
        columns["blocks"].append(signature.blocks)
        columns["thumbnails"].append(signature.thumbnail)
        columns["sign_ms"].append(1000 * (signed - converted))
        advance(number, len(wanted))
    return Recording(**{name: np.stack(values) for name, values in columns.items()})


def _timed(part: ModelPart, spec: Input) -> Callable[[Picture], tuple[npt.NDArray[np.float32], float]]:
    prepare, [takes], [gives] = preprocessor(spec), part.takes, part.gives

    def run(picture: Picture) -> tuple[npt.NDArray[np.float32], float]:
        """Logits ``(classes,)`` and run time, milliseconds."""
        begun = time.perf_counter()
        scores = part.run({takes: prepare(crop(picture, spec))})[gives]
        return scores.reshape(-1).astype(np.float32), 1000 * (time.perf_counter() - begun)

    return run


def _regions(task: Task, wanted: list[int]) -> Iterator[Picture]:
    """The region of each wanted frame."""
    try:
        video = Video(task.video)
    except OSError as error:
        raise TaskError(f"video: {task.video}: {error.strerror}") from None
    except BadVideo as error:
        raise BadVideo(f"video: {task.video}: {error}") from None
    chosen, number = set(wanted), -1
    with contextlib.closing(video):
        for number, frame in enumerate(video.frames()):
            if number > wanted[-1]:
                return
            if number in chosen:
                high, wide = frame.picture.shape[:2]
                x, y, w, h = task.region or (0, 0, wide, high)
                if x + w > wide or y + h > high:
                    raise TaskError(f"region {[x, y, w, h]} reaches out of a frame of {wide}x{high} pixels")
                yield frame.picture[y : y + h, x : x + w]
    if number < wanted[-1]:
        raise TaskError(f"video: {task.video} has {number + 1} frames, and frame {wanted[-1]} is asked for")


def _key(task: Task, full: Input, base: Input, wanted: list[int]) -> str:
    """Digest of a recording's inputs: files, preprocessing, frames and code."""
    digest = hashlib.sha256()
    for path in (task.video, task.full, task.base):
        digest.update(file_digest(path).encode())
    for module in (image, signing, sys.modules[__name__]):
        digest.update(hashlib.sha256(inspect.getsource(module).encode()).digest())
    settings = (task.region, full, base, wanted, ort.__version__, cv2.__version__, np.__version__)
    digest.update(msgspec.json.encode(settings))
    return digest.hexdigest()[:32]


def _cached(path: Path, count: int) -> Recording | None:
    """The recording in ``path``; None unless it has ``count`` frames."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = Recording(**{name: arrays[name] for name in _FIELDS})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return found if {len(getattr(found, name)) for name in _FIELDS} == {count} else None


def _save(path: Path, recording: Recording) -> None:
    out = io.BytesIO()
    np.savez_compressed(out, **{name: getattr(recording, name) for name in _FIELDS})
    with contextlib.suppress(OSError):  # without a writable cache the models just run again
        atomic_files.write(path, out.getbuffer())
