"""Outputs of the full model on frames, computed once and stored in chunks.

The directory's name is a digest of the model, the preprocessing and the files. An interrupted run continues, and
outputs of another model or of other files are never reused.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from cachenet.models.data.frames import Frames
from cachenet.models.export.classifier import Classifier, ClassifierError
from cachenet.models.export.onnx_file import OnnxRun
from cachenet.shared.bundle.manifest import digest
from cachenet.shared.command import atomic_files
from cachenet.shared.command.file_names import shown
from cachenet.shared.inference.image import Picture, Tensor, crop, preprocessor

#: Frames of a stored chunk.
_CHUNK = 512
#: Frames of a batch. Constant, because the last bits of a score depend on the batch size.
_BATCH = 32
Array = npt.NDArray[np.float32]


class NothingRead(ClassifierError):
    """None of the files can be read."""

    code = 1


@dataclass(frozen=True)
class TeacherLogits:
    """Outputs of the full model."""

    pictures: npt.NDArray[np.uint8]  # Cropped frames ``(n, height, width, 3)`` uint8 BGR
    scores: Array  # Logits ``(n, classes)``
    embeddings: Array  # Embeddings ``(n, d)``
    files: npt.NDArray[np.int64]  # File number of each frame ``(n,)``

    def __len__(self) -> int:
        return len(self.files)


_FIELDS = tuple(field.name for field in fields(TeacherLogits))


def label_frames(
    classifier: Classifier, frames: Frames, work: Path, threads: int, advance: Callable[[int], object] = lambda _: None
) -> TeacherLogits:
    """Run ``classifier`` over ``frames``, or load the outputs of an earlier run.

    Args:
        threads: Threads of ONNX Runtime.
        advance: Called with the number of finished files.

    Raises:
        NothingRead: No file can be read.
        ClassifierError: The model does not run.
        OSError: ``work`` cannot be written.
    """
    run = OnnxRun(classifier.graph, classifier.path.name, threads)
    directory = work / f"teach-{_digest(classifier, frames)[:16]}"
    chunks: list[TeacherLogits] = []
    source = iter(frames)
    while batch := list(islice(source, _CHUNK)):
        path = directory / f"{len(chunks):05}.npz"
        if not path.exists():
            chunk = _run_all(classifier, run, [frame.picture for frame in batch], [frame.file for frame in batch])
            data = io.BytesIO()
            np.savez(data, **{name: getattr(chunk, name) for name in _FIELDS})
            atomic_files.write(path, data.getbuffer())
        with np.load(path) as stored:
            chunks.append(TeacherLogits(*(stored[name] for name in _FIELDS)))
        advance(batch[-1].file + 1)
    advance(len(frames.files))
    if not chunks:
        path, why = next(iter(frames.broken.items()), (frames.files[0], "it is empty"))
        raise NothingRead(f"no file can be read; the first, {shown(path)}: {why}")
    return TeacherLogits(*(np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in _FIELDS))


def look(classifier: Classifier, pictures: Sequence[Picture], threads: int) -> TeacherLogits:
    """Run ``classifier`` over ``pictures`` and store nothing. Raises ``ClassifierError`` if it does not run."""
    run = OnnxRun(classifier.graph, classifier.path.name, threads)
    return _run_all(classifier, run, pictures, range(len(pictures)))


def _run_all(classifier: Classifier, run: OnnxRun, frames: Sequence[Picture], numbers: Sequence[int]) -> TeacherLogits:
    pictures = [crop(picture, classifier.input) for picture in frames]
    prepare = preprocessor(classifier.input)
    batches = (pictures[at : at + _BATCH] for at in range(0, len(pictures), _BATCH))
    outputs = [_run(classifier, run, np.concatenate(list(map(prepare, batch)))) for batch in batches]
    embeddings = np.concatenate([embedding for _, embedding in outputs])
    return TeacherLogits(
        np.stack(pictures),
        np.concatenate([scores for scores, _ in outputs]).astype(np.float32),
        embeddings.reshape(len(pictures), -1).astype(np.float32),
        np.array(numbers, np.int64),
    )


def _run(classifier: Classifier, run: OnnxRun, batch: Tensor) -> tuple[Array, Array]:
    """Scores and embeddings of a batch. Raises ``ClassifierError`` if a score is not finite."""
    groups = [batch] if classifier.batch is None else np.split(batch, len(batch))
    outputs = [run([classifier.scores, classifier.embedding], group) for group in groups]
    scores = np.concatenate([scores for scores, _ in outputs])
    if not np.isfinite(scores).all():
        kind = "NaN (not a number)" if np.isnan(scores).any() else "infinite scores"
        raise ClassifierError(f"{classifier.path.name} gives {kind} for some of the frames; export it in float32")
    return scores, np.concatenate([embedding for _, embedding in outputs])


def _digest(classifier: Classifier, frames: Frames) -> str:
    """Digest of the model, the preprocessing, and the names, sizes and times of the files."""
    sources = [
        (os.fsencode(path), status.st_size, status.st_mtime_ns) for path in frames.files if (status := path.lstat())
    ]
    return digest(
        classifier.graph.SerializeToString(deterministic=True)
        + msgspec.json.encode((classifier.input, frames.frame_step, sources))
        + (msgspec.json.encode(frames.region) if frames.region is not None else b"")
    )
