"""Replays early exits: the early-exit model of servers and devices, over recorded scores of its exits and of the model.

A picture is its index, ``(n, 1)`` float32. Time is virtual: a run of the whole model takes 1, a segment takes its share
of the multiply-adds, and a head takes ``_LOOKUP``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import msgspec
import numpy as np

from cachenet.models.exits.certify import Scores, run_exits
from cachenet.models.exits.sites import known_site
from cachenet.shared.bundle.manifest import Bundle, ExitKind, Manifest
from cachenet.shared.inference.early_exit import FEATURES, SCORES, EarlyExitModel, ExitHead
from cachenet.shared.inference.engine import Batch, ModelPart
from cachenet.shared.inference.exit_cost import ExitCostModel
from cachenet.shared.inference.graph_split import read
from cachenet.shared.inference.image import Picture

#: Time of a head, in runs of the whole model; close to measurements.
_LOOKUP = 0.002
_PICTURE = "picture"


@dataclass
class _Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class _RecordedPart:
    """A segment or a head that takes ``seconds`` a row. ``scores``: of all pictures; None for inner segments."""

    clock: _Clock
    seconds: float
    scores: Scores | None
    gives: tuple[str, ...]
    provider: str = "cpu"

    def run(self, tensors: Mapping[str, Batch]) -> dict[str, Batch]:
        pictures = tensors[_PICTURE]
        self.clock.now += self.seconds * len(pictures)
        if self.scores is None:
            return {}
        return {SCORES: self.scores[pictures[:, 0].astype(np.int64)], FEATURES: pictures}


def recorded_exits(
    manifest: Manifest, way: ExitKind, scores: Sequence[Scores], whole: Scores, draw: Callable[[], float]
) -> EarlyExitModel:
    """The early-exit model of kind ``way``, over recorded ``scores`` of each head ``(pictures, classes)`` and of the
    whole model. ``draw``: source of random numbers in 0..1.
    """
    layers, clock = manifest.layers[way], _Clock()
    ends = [*(layer.share for layer in layers.caches), 1.0]
    *times, last = np.diff(ends, prepend=0.0).tolist()
    segments = [_RecordedPart(clock, seconds, None, ()) for seconds in times]
    segments.append(_RecordedPart(clock, last, whole, (SCORES,)))
    heads = [
        ExitHead(
            msgspec.structs.replace(layer, tensors=(_PICTURE,)),
            cast(ModelPart, _RecordedPart(clock, _LOOKUP, own, (SCORES, FEATURES))),
            ExitCostModel(number),
        )
        for number, (layer, own) in enumerate(zip(layers.caches, scores, strict=True))
    ]
    temperature = manifest.models[manifest.only("full")].temperature
    parts = [cast(ModelPart, segment) for segment in segments]
    return EarlyExitModel(parts, heads, _PICTURE, temperature, whole.shape[1], layers.wrong, draw, clock)


def picture(number: int) -> Batch:
    """The input for picture ``number``."""
    return np.array([[number]], np.float32)


def exit_scores(
    bundle: Bundle, kinds: Sequence[ExitKind], pictures: Sequence[Picture], threads: int
) -> tuple[dict[ExitKind, list[Scores]], Scores]:
    """Logits of every exit by kind, and of the full model, for every picture."""
    manifest = bundle.manifest
    full = manifest.models[manifest.only("full")]
    model = read((bundle.directory / full.file).read_bytes())
    exits = [(kind, one) for kind in kinds for one in manifest.layers[kind].caches]
    known = {one.tensors: known_site(one.tensors, model.image, one.share) for _, one in exits}
    sites = sorted(known.values(), key=lambda site: site.share)
    number = {site.tensors: at for at, site in enumerate(sites)}
    files = [(number[one.tensors], bundle.directory / one.file) for _, one in exits]
    logits, complete = run_exits(model, sites, files, full.input, pictures, threads)
    return {kind: [own for own, (of, _) in zip(logits, exits, strict=True) if of == kind] for kind in kinds}, complete
