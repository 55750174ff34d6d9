"""Streams to tune and to prove gates on, out of any frames: the named streams, with the user's pictures in them, and
the runs of videos as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from rich.progress import Progress

from models import gates, recorded, streams
from models.cifar10 import Split
from models.gates import Recorded
from models.material import Part
from shared.engine import Session
from shared.image import Input

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
    models: Mapping[str, tuple[Session, Input]],
    progress: Progress,
) -> list[gates.Kind]:
    """Up to ``count`` streams of every kind that ``part`` gives, each from its own pool, and ``typical`` ones of
    unrelated pictures from all of it; ``scenes``: the labels of working sets. A kind with less than
    ``ENOUGH`` is left out."""
    found = _drawn(part, scenes, count, typical, frames, seed, models, progress)
    if (films := _films(part, models)) and len(films) >= ENOUGH:
        found.append(gates.Kind(films, films))
    return found


def _drawn(
    part: Part,
    scenes: Sequence[tuple[int, ...]],
    count: int,
    typical: int,
    frames: int,
    seed: int,
    models: Mapping[str, tuple[Session, Input]],
    progress: Progress,
) -> list[gates.Kind]:
    split = part.split
    often = np.bincount(split.labels, minlength=part.scores.shape[1])
    present = np.flatnonzero(often >= _FEW)
    place = {int(label): number for number, label in enumerate(present)}
    table = [own for scene in scenes if 0 < len(own := tuple(place[c] for c in scene if c in place)) < len(present)]
    if len(present) < 2 or not table or (count := min(count, int(often[present].min()))) < ENOUGH:
        return []
    rows = np.isin(split.labels, present)
    split = Split(split.images[rows], np.searchsorted(present, split.labels[rows]))
    pools = streams.pools(split.labels, count, seed)
    whole = np.arange(len(split))
    task = progress.add_task(
        "streams for the gates", total=len(streams.NAMES) * count + len(recorded.UNRELATED) * typical
    )
    signed, blind = [], []
    for name in streams.NAMES:
        drawn = pools + [whole] * (typical if name in recorded.UNRELATED else 0)
        plans = [
            streams.plan(name, split.labels, seed + i, frames, pool, range(len(table)), table, len(present))
            for i, pool in enumerate(drawn)
        ]
        streamed = [
            replace(one, truth=present[one.truth])
            for one in recorded.record(plans, split, models, lambda: progress.advance(task), signed=True)
        ]
        signed.append(gates.Kind(streamed[:count], streamed[count:] or streamed))
        if name in recorded.UNRELATED:
            # And without signatures, for a user who knows that neighbouring pictures say nothing about each other.
            bare = [replace(one, signatures=None) for one in streamed]
            blind.append(gates.Kind(bare[:count], bare[count:] or bare))
    progress.remove_task(task)
    return signed + blind


def _films(part: Part, models: Mapping[str, tuple[Session, Input]]) -> list[Recorded]:
    """The runs of videos, each a stream."""
    return [
        recorded.film(list(part.images[run][:, :, :, ::-1]), part.split.labels[run], models)
        for run in part.runs
        if len(run) >= _RUN
    ]
