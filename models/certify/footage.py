"""Held-out footage as a device sees it: sequences of frames, with the outputs of every model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from cachenet.models.certify.traces import Models, RecordedStream, as_pictures, record_pictures, record_streams
from cachenet.models.data import streams
from cachenet.models.data.cifar10 import Split
from cachenet.models.data.dataset import LabelledFrames

#: Streams that are drawn from unrelated pictures, if the user gives scenes.
DRAWN: tuple[streams.StreamName, ...] = ("session", "dwell", "held", "camera")
#: Pictures that a label needs to appear in drawn streams.
_FEW = 4


def sequences(part: LabelledFrames, models: Models, progress: Progress, title: str) -> list[RecordedStream]:
    """The sequences of ``part``, recorded."""
    task = progress.add_task(title, total=len(part.runs))
    found = []
    for run in part.runs:
        found.append(record_pictures(as_pictures(part.images[run]), part.split.labels[run], models, part.full_input))
        progress.advance(task)
    progress.remove_task(task)
    return found


def drawn(
    part: LabelledFrames,
    scenes: Sequence[Sequence[int]],
    count: int,
    frames: int,
    seed: int,
    models: Models,
    progress: Progress,
    title: str,
) -> list[RecordedStream]:
    """Streams drawn from pictures that are not footage, each from a disjoint pool of the pictures.

    Args:
        scenes: Labels that appear together.
        count: Streams of each kind in ``DRAWN``.
        frames: Length of a stream.

    Returns:
        The streams; none if there are too few pictures.
    """
    split, present, table = restrict(part, scenes)
    count = min(count, int(np.bincount(split.labels).min()) if len(split) else 0)
    if len(present) < 2 or not table or not count:
        return []
    pools = streams.split_pools(split.labels, count, seed)
    task = progress.add_task(title, total=len(DRAWN) * count)
    found: list[RecordedStream] = []
    for name in DRAWN:
        schedules = [
            streams.schedule(name, split.labels, seed + number, frames, pool, range(len(table)), table, len(present))
            for number, pool in enumerate(pools)
        ]
        found += record_streams(schedules, split, models, lambda: progress.advance(task), part.full_input)
    progress.remove_task(task)
    return found


def restrict(
    part: LabelledFrames, scenes: Sequence[Sequence[int]]
) -> tuple[Split, npt.NDArray[np.int64], list[tuple[int, ...]]]:
    """Restrict pictures and scenes to the labels with enough pictures.

    Returns:
        The pictures of those labels, the labels, and the remaining labels of each scene. In the split and the scenes, a
        label is its index among those labels.
    """
    split = part.split
    present = np.flatnonzero(np.bincount(split.labels, minlength=part.scores.shape[1]) >= _FEW)
    index = {int(label): number for number, label in enumerate(present)}
    table = [own for scene in scenes if 0 < len(own := tuple(index[c] for c in scene if c in index)) < len(present)]
    rows = np.isin(split.labels, present)
    return Split(split.images[rows], np.searchsorted(present, split.labels[rows])), present, table
