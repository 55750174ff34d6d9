"""Streams to tune and to prove gates on, out of any frames: the named streams, with the user's pictures in them, and
the runs of videos as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from models import gates, recorded, streams
from models.cifar10 import Split
from models.material import Part
from models.replay import Recorded

#: Frames of a video that make a stream; and pictures of a label that make it one to draw streams from.
_RUN, _FEW = 16, 4
#: Streams that say something about a share of streams.
ENOUGH = 3


def kinds(
    part: Part,
    scenes: Sequence[tuple[int, ...]],
    count: int,
    typical: int,
    frames: int,
    seed: int,
    models: recorded.Models,
    progress: Progress,
) -> list[gates.Kind]:
    """Up to ``count`` streams of every kind that ``part`` gives, each from its own pool, and ``typical`` ones of
    unrelated pictures from all of it; ``scenes``: the labels of working sets. A kind with less than
    ``ENOUGH`` is left out."""
    split, present, table = cast(part, scenes)
    count = min(count, int(np.bincount(split.labels).min()) if len(split) else 0)
    found: list[gates.Kind] = []
    if len(present) > 1 and table and count >= ENOUGH:
        pools, whole = streams.pools(split.labels, count, seed), np.arange(len(split))
        total = len(streams.NAMES) * count + len(recorded.UNRELATED) * typical
        task = progress.add_task("streams for the gates", total=total)
        blind = []
        for name in streams.NAMES:
            drawn = pools + [whole] * (typical if name in recorded.UNRELATED else 0)
            plans = [
                streams.plan(name, split.labels, seed + i, frames, pool, range(len(table)), table, len(present))
                for i, pool in enumerate(drawn)
            ]
            streamed = [
                replace(one, truth=present[one.truth])
                for one in recorded.record(plans, split, models, lambda: progress.advance(task), True, part.seen)
            ]
            found.append(gates.Kind(streamed[:count], streamed[count:] or streamed))
            if name in recorded.UNRELATED:
                # And without signatures, for a user who knows that neighbouring pictures say nothing about each other.
                bare = [replace(one, signatures=None) for one in streamed]
                blind.append(gates.Kind(bare[:count], bare[count:] or bare))
        progress.remove_task(task)
        found += blind
    if len(films := _films(part, models)) >= ENOUGH:
        found.append(gates.Kind(films, films))
    return found


def cast(part: Part, scenes: Sequence[Sequence[int]]) -> tuple[Split, npt.NDArray[np.int64], list[tuple[int, ...]]]:
    """The pictures of the labels that there are enough of, those labels, and of each scene what is left of it; in the
    split and the scenes a label is its place among those labels."""
    split = part.split
    present = np.flatnonzero(np.bincount(split.labels, minlength=part.scores.shape[1]) >= _FEW)
    place = {int(label): number for number, label in enumerate(present)}
    table = [own for scene in scenes if 0 < len(own := tuple(place[c] for c in scene if c in place)) < len(present)]
    rows = np.isin(split.labels, present)
    return Split(split.images[rows], np.searchsorted(present, split.labels[rows])), present, table


def _films(part: Part, models: recorded.Models) -> list[Recorded]:
    """The runs of videos, each a stream."""
    return [
        recorded.film(recorded.as_pictures(part.images[run]), part.split.labels[run], models, part.seen)
        for run in part.runs
        if len(run) >= _RUN
    ]
