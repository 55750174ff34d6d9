"""Held-out footage as a device would see it: sequences of frames, with what every model says of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from cachenet.models.certify import recorded
from cachenet.models.certify.replay import Recorded
from cachenet.models.data import streams
from cachenet.models.data.cifar10 import Split
from cachenet.models.data.dataset import LabelledFrames

#: The streams that are drawn of unrelated pictures, where the user says which labels come together.
DRAWN: tuple[streams.Name, ...] = ("session", "dwell", "held", "camera")
#: Pictures of a label that make it one to draw streams from.
_FEW = 4


def sequences(part: LabelledFrames, models: recorded.Models, progress: Progress, title: str) -> list[Recorded]:
    """The runs of ``part``, as they are."""
    task = progress.add_task(title, total=len(part.runs))
    found = []
    for run in part.runs:
        found.append(recorded.film(recorded.as_pictures(part.images[run]), part.split.labels[run], models, part.seen))
        progress.advance(task)
    progress.remove_task(task)
    return found


def drawn(
    part: LabelledFrames,
    scenes: Sequence[Sequence[int]],
    count: int,
    frames: int,
    seed: int,
    models: recorded.Models,
    progress: Progress,
    title: str,
) -> list[Recorded]:
    """``count`` streams of ``frames`` frames of each of ``DRAWN``, each of a disjoint pool of the pictures; none where
    there are too few. For pictures that are no footage of any place, where the streams are the subject.

    Args:
        scenes: Labels that come together.
    """
    split, present, table = cast(part, scenes)
    count = min(count, int(np.bincount(split.labels).min()) if len(split) else 0)
    if len(present) < 2 or not table or not count:
        return []
    pools = streams.pools(split.labels, count, seed)
    task = progress.add_task(title, total=len(DRAWN) * count)
    found: list[Recorded] = []
    for name in DRAWN:
        plans = [
            streams.plan(name, split.labels, seed + number, frames, pool, range(len(table)), table, len(present))
            for number, pool in enumerate(pools)
        ]
        found += recorded.record(plans, split, models, lambda: progress.advance(task), part.seen)
    progress.remove_task(task)
    return found


def cast(
    part: LabelledFrames, scenes: Sequence[Sequence[int]]
) -> tuple[Split, npt.NDArray[np.int64], list[tuple[int, ...]]]:
    """The pictures of the labels that there are enough of, those labels, and of each scene what is left of it; in the
    split and the scenes a label is its place among those labels."""
    split = part.split
    present = np.flatnonzero(np.bincount(split.labels, minlength=part.scores.shape[1]) >= _FEW)
    place = {int(label): number for number, label in enumerate(present)}
    table = [own for scene in scenes if 0 < len(own := tuple(place[c] for c in scene if c in place)) < len(present)]
    rows = np.isin(split.labels, present)
    return Split(split.images[rows], np.searchsorted(present, split.labels[rows])), present, table
