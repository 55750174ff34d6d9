"""A full model with caches between its layers, of what model and caches have said of pictures already: the very rules
that a server and a device go by, over as many streams as are wanted.

A picture comes in as its number, ``(n, 1)`` float32. Time is virtual: a run of the whole model takes 1, a segment its
share of the multiply-adds, a lookup ``_LOOKUP``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import msgspec
import numpy as np

from cachenet.models.exits.certify import Scores
from cachenet.shared.bundle.manifest import Manifest, Way
from cachenet.shared.inference.early_exit import FEATURES, SCORES, Cache, EarlyExitModel
from cachenet.shared.inference.engine import Batch, ModelPart
from cachenet.shared.inference.exit_cost import ExitCostModel

#: Of a run of the whole model: about what is measured.
_LOOKUP = 0.002
_PICTURE = "picture"


@dataclass
class _Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class _Told:
    """In the place of a segment or a cache: takes ``seconds`` a row, and gives its ``scores`` of a picture as
    ``gives``; a segment before the last gives nothing, for the number is all that the next one needs."""

    clock: _Clock
    seconds: float
    scores: Scores | None
    gives: tuple[str, ...]
    provider: str = "cpu"

    def run(self, held: Mapping[str, Batch]) -> dict[str, Batch]:
        pictures = held[_PICTURE]
        self.clock.now += self.seconds * len(pictures)
        if self.scores is None:
            return {}
        return {SCORES: self.scores[pictures[:, 0].astype(np.int64)], FEATURES: pictures}


def replayed(
    manifest: Manifest, way: Way, said: Sequence[Scores], whole: Scores, draw: Callable[[], float]
) -> EarlyExitModel:
    """``said``: by each cache of that ``way`` of each picture, ``(pictures, classes)``; ``whole``: by all of the
    model."""
    layers, clock = manifest.layers[way], _Clock()
    ends = [*(layer.share for layer in layers.caches), 1.0]
    took = np.diff(ends, prepend=0.0).tolist()
    segments = [_Told(clock, seconds, None, ()) for seconds in took[:-1]]
    segments.append(_Told(clock, took[-1], whole, (SCORES,)))
    caches = [
        Cache(
            msgspec.structs.replace(layer, tensors=(_PICTURE,)),
            cast(ModelPart, _Told(clock, _LOOKUP, scores, (SCORES, FEATURES))),
            ExitCostModel(place),
        )
        for place, (layer, scores) in enumerate(zip(layers.caches, said, strict=True))
    ]
    temperature = manifest.models[manifest.only("full")].temperature
    classes = whole.shape[1]
    parts = [cast(ModelPart, segment) for segment in segments]
    return EarlyExitModel(parts, caches, _PICTURE, temperature, classes, layers.wrong, draw, clock)


def picture(number: int) -> Batch:
    """What such a model takes for picture ``number``."""
    return np.array([[number]], np.float32)
