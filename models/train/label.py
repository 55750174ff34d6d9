"""Teaching: the full model looks once at every frame, and what it says is kept.

The work is kept in chunks under a name that says what it came from, so that an interrupted look goes on where it
stopped and another model or other data never passes for this one's.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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

#: Frames of a chunk, and of a run. Fixed, for the last bits of a score depend on what it was run with.
_CHUNK, _BATCH = 512, 32
Array = npt.NDArray[np.float32]


class NothingRead(ClassifierError):
    """There are files, and none of them can be read."""

    code = 1


@dataclass(frozen=True)
class TeacherLogits:
    """What the full model said. ``pictures`` ``(n, height, width, 3)`` uint8 BGR, ``scores`` ``(n, classes)``,
    ``embeddings`` ``(n, dimensions)``, ``files`` ``(n,)``: the number of each frame's file."""

    pictures: npt.NDArray[np.uint8]
    scores: Array
    embeddings: Array
    files: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.files)


def teach(
    classifier: Classifier, frames: Frames, work: Path, threads: int, advance: Callable[[int], object] = lambda _: None
) -> TeacherLogits:
    """Run ``classifier`` over ``frames``, or take from ``work`` what was run before. ``advance`` is called with the
    number of files that are done. Raises ``NothingRead``, ``ClassifierError`` for a model that does not run,
    ``OSError`` where ``work`` cannot be written."""
    run = OnnxRun(classifier.graph, classifier.path.name, threads)
    directory = work / f"teach-{_origin(classifier, frames)[:16]}"
    parts: list[TeacherLogits] = []
    source = iter(frames)
    while seen := list(islice(source, _CHUNK)):
        path = directory / f"{len(parts):05}.npz"
        if not path.exists():
            part = _look(classifier, run, [one.picture for one in seen], [one.file for one in seen])
            kept = io.BytesIO()
            np.savez(kept, pictures=part.pictures, scores=part.scores, embeddings=part.embeddings, files=part.files)
            atomic_files.write(path, kept.getbuffer())
        with np.load(path) as read:
            parts.append(TeacherLogits(read["pictures"], read["scores"], read["embeddings"], read["files"]))
        advance(seen[-1].file + 1)
    advance(len(frames.files))
    if not parts:
        path, why = next(iter(frames.broken.items()), (frames.files[0], "it is empty"))
        raise NothingRead(f"no file can be read; the first, {shown(path)}: {why}")
    return TeacherLogits(
        np.concatenate([part.pictures for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.embeddings for part in parts]),
        np.concatenate([part.files for part in parts]),
    )


def look(classifier: Classifier, pictures: Sequence[Picture], threads: int) -> TeacherLogits:
    """Run ``classifier`` over ``pictures`` and keep nothing. Raises ``ClassifierError`` if it does not run."""
    return _look(classifier, OnnxRun(classifier.graph, classifier.path.name, threads), pictures, range(len(pictures)))


def _look(classifier: Classifier, run: OnnxRun, given: Sequence[Picture], numbers: Sequence[int]) -> TeacherLogits:
    pictures = [crop(picture, classifier.input) for picture in given]
    prepare = preprocessor(classifier.input)
    said = [_run(classifier, run, np.concatenate(list(map(prepare, batch)))) for batch in _batches(pictures)]
    embeddings = np.concatenate([embedding for _, embedding in said])
    return TeacherLogits(
        np.stack(pictures),
        np.concatenate([scores for scores, _ in said]).astype(np.float32),
        embeddings.reshape(len(pictures), -1).astype(np.float32),
        np.array(numbers, np.int64),
    )


def _batches(pictures: list[npt.NDArray[np.uint8]]) -> Iterator[list[npt.NDArray[np.uint8]]]:
    return (pictures[at : at + _BATCH] for at in range(0, len(pictures), _BATCH))


def _run(classifier: Classifier, run: OnnxRun, batch: Tensor) -> tuple[Array, Array]:
    groups = [batch] if classifier.batch is None else np.split(batch, len(batch))
    said = [run([classifier.scores, classifier.embedding], group) for group in groups]
    scores = np.concatenate([scores for scores, _ in said])
    if not np.isfinite(scores).all():
        kind = "NaN (not a number)" if np.isnan(scores).any() else "infinite scores"
        raise ClassifierError(f"{classifier.path.name} gives {kind} for some of the frames; export it in float32")
    return scores, np.concatenate([embedding for _, embedding in said])


def _origin(classifier: Classifier, frames: Frames) -> str:
    """What tells one lesson from another: the model, how pictures are prepared, and the files as they are now."""
    sources = [
        (os.fsencode(path), status.st_size, status.st_mtime_ns) for path in frames.files if (status := path.lstat())
    ]
    return digest(
        classifier.graph.SerializeToString(deterministic=True)
        + msgspec.json.encode((classifier.input, frames.every, sources))
    )
