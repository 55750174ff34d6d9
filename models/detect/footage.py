"""Footage with the full detector's objects as labels: read once, stored in a work directory, divided by time."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from cachenet.models.data.frames import HELD_OUT_SHARES, USES, Frames, FramesError, uses
from cachenet.models.export.detector import DetectorModel
from cachenet.models.train.label import NothingRead
from cachenet.shared.bundle.manifest import digest
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.command import atomic_files
from cachenet.shared.command.file_names import shown
from cachenet.shared.inference.detector import in_input
from cachenet.shared.inference.image import Input, crop

#: Frames of a stored chunk.
_CHUNK = 256
#: Least score of a stored object, as a share of the full model's threshold: what is almost found is no background.
_ALMOST = 0.5
#: Minimum number of frames of each use.
_MIN_FRAMES = 20
#: Minimum number of objects to train on.
_MIN_OBJECTS = 20
#: Pictures ``(n, height, width, 3)`` uint8 RGB.
Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Block:
    """Frames of one use with the full model's objects.

    Attributes:
        pictures: The frames as the trained detectors see them.
        objects: Objects of each frame, as shares of its picture, also those of a score under the full model's
            threshold.
        sequences: Number of each frame's video or folder ``(n,)``.
        score: The full model's threshold.
    """

    pictures: Pictures
    objects: tuple[Detections, ...]
    sequences: npt.NDArray[np.int64]
    score: float

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def reference(self) -> tuple[Detections, ...]:
        """The full model's answer to each frame: the objects of at least its threshold."""
        return tuple(found.take(found.scores >= self.score) for found in self.objects)


@dataclass(frozen=True)
class Footage:
    """The frames of a build by use, see ``data.frames.USES``."""

    learn: Block
    tune: Block
    prove: Block


def label(
    full: DetectorModel, frames: Frames, directory: Path, threads: int, advance: Callable[[int], object]
) -> tuple[tuple[Detections, ...], npt.NDArray[np.int64], list[tuple[int, int]]]:
    """Run ``full`` over ``frames``, or load its objects from an earlier run, which may have been interrupted.

    Args:
        directory: Directory of the objects, in chunks.
        threads: Threads of ONNX Runtime.
        advance: Called with the number of finished frames.

    Returns:
        The objects of each frame, the number of its file ``(n,)``, and its width and height, pixels.

    Raises:
        NothingRead: No file can be read.
        UserError: The model does not run.
        OSError: ``directory`` cannot be written.
    """
    lower = msgspec.structs.replace(full.decoder, score=_ALMOST * full.decoder.score)
    detect = replace(full, decoder=lower).detector(threads)
    found: list[Detections] = []
    files: list[int] = []
    sizes: list[tuple[int, int]] = []
    source = iter(frames)
    while batch := list(islice(source, _CHUNK)):
        path = directory / f"{len(found) // _CHUNK:05}.npz"
        if not path.exists():
            atomic_files.write(path, _pack([detect(frame.picture) for frame in batch]))
        found += _unpack(path)
        files += [frame.file for frame in batch]
        sizes += [(frame.picture.shape[1], frame.picture.shape[0]) for frame in batch]
        advance(len(found))
    if not found:
        path, why = next(iter(frames.broken.items()), (frames.files[0], "it is empty"))
        raise NothingRead(f"no file can be read; the first, {shown(path)}: {why}")
    return tuple(found), np.array(files, np.int64), sizes


def read_pictures(frames: Frames, spec: Input, path: Path) -> Pictures:
    """The frames as models of ``spec`` see them, from a file at ``path``, which is written if it is not there.

    The file is mapped into memory, not read: it may be larger than the memory.

    Raises:
        OSError: ``path`` cannot be written.
    """
    width, height = spec.size
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".part")
        with partial.open("wb") as out:
            for frame in frames:
                out.write(np.ascontiguousarray(crop(frame.picture, spec)[:, :, ::-1]).data)
        atomic_files.replace(partial, path)
    stored = np.memmap(path, np.uint8, "r")
    return stored.reshape(-1, height, width, 3)


def collect(
    full: DetectorModel, sources: Sequence[Frames], spec: Input, work: Path, threads: int, progress: Progress
) -> Footage:
    """Label footage and divide it by time, with guard gaps.

    Args:
        sources: Frames to divide; or frames to train on, and held-out frames to tune and prove on.
        spec: Input of the detectors that will be trained.

    Raises:
        FramesError: There are too few frames or objects.
        NothingRead: No file can be read.
        UserError: The model does not run.
        OSError: ``work`` cannot be written.
    """
    blocks = [read_block(full, frames, spec, work, threads, progress) for frames in sources]
    if len(blocks) == 1:
        learn, tune, prove = _divided(blocks[0])
    else:
        learn, (_, tune, prove) = blocks[0], _divided(blocks[1], HELD_OUT_SHARES)
    for name, block in zip(USES, (learn, tune, prove), strict=True):
        if len(block) < _MIN_FRAMES:
            raise FramesError(f"{len(block)} frames to {name} with, and {_MIN_FRAMES} are needed; give more frames")
    if (count := sum(map(len, learn.reference))) < _MIN_OBJECTS:
        raise FramesError(
            f"the full model finds {count} objects in the {len(learn)} frames to learn from, and {_MIN_OBJECTS} are "
            "needed; give footage of what it is to find, or look at its boxes with 'inspect --draw'"
        )
    return Footage(learn, tune, prove)


def read_block(full: DetectorModel, frames: Frames, spec: Input, work: Path, threads: int, progress: Progress) -> Block:
    """All of ``frames``, with labels. Raises as ``collect``."""
    task = progress.add_task("full model, frames", total=None)
    directory = work / f"footage-{_digest(full, frames)[:16]}"
    objects, files, sizes = label(full, frames, directory, threads, lambda done: progress.update(task, completed=done))
    width, height = spec.size
    pictures = read_pictures(frames, spec, directory / f"{width}x{height}-{spec.scaling}-{spec.fit}.rgb")
    progress.remove_task(task)
    count = min(len(objects), len(pictures))  # a file may have become unreadable between the two passes
    placed = tuple(in_input(*pair, spec) for pair in zip(objects[:count], sizes, strict=False))
    return Block(pictures[:count], placed, frames.sequences(files)[:count], full.decoder.score)


def first_size(frames: Frames) -> tuple[int, int]:
    """Width and height of the first picture. Raises ``NothingRead``."""
    first = next(iter(frames), None)
    if first is None:
        path, why = next(iter(frames.broken.items()), (frames.files[0], "it is empty"))
        raise NothingRead(f"no file can be read; the first, {shown(path)}: {why}")
    height, width = first.picture.shape[:2]
    return width, height


def _divided(block: Block, *shares: tuple[float, ...]) -> list[Block]:
    """One block for each of ``USES``."""
    use = uses(block.sequences.tolist(), *shares)
    return [take(block, np.flatnonzero(use == number)) for number in range(len(USES))]


def take(block: Block, rows: npt.NDArray[np.int64]) -> Block:
    """The frames at ``rows``, which are ascending."""
    first, end = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
    # A slice stays in the file; a list of rows is copied into memory.
    pictures = block.pictures[first:end] if end - first == len(rows) else block.pictures[rows]
    return Block(pictures, tuple(block.objects[row] for row in rows), block.sequences[rows], block.score)


def _pack(found: Sequence[Detections]) -> memoryview:
    """Detections of frames as an NPZ file."""
    data = io.BytesIO()
    np.savez(
        data,
        counts=np.array([len(one) for one in found], np.int64),
        boxes=np.concatenate([one.boxes for one in found]),
        labels=np.concatenate([one.labels for one in found]),
        scores=np.concatenate([one.scores for one in found]),
    )
    return data.getbuffer()


def _unpack(path: Path) -> list[Detections]:
    with np.load(path, allow_pickle=False) as stored:
        ends = np.cumsum(stored["counts"])[:-1]
        parts = [np.split(stored[name], ends) for name in ("boxes", "labels", "scores")]
    return [Detections(*part) for part in zip(*parts, strict=True)]


def _digest(full: DetectorModel, frames: Frames) -> str:
    """Digest of the model, how it is used, and the names, sizes and times of the files."""
    sources = [
        (os.fsencode(path), status.st_size, status.st_mtime_ns) for path in frames.files if (status := path.lstat())
    ]
    return digest(
        full.graph.SerializeToString(deterministic=True)
        + msgspec.json.encode((full.input, full.decoder, full.labels, frames.frame_step, sources))
        + (msgspec.json.encode(frames.region) if frames.region is not None else b"")
    )
