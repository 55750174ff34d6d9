"""Which submodels look at a frame after the base model, in what order, and when another look does not pay.

A look costs its run and saves, if it leads to a hit, the wait for the cloud. How often one does is what the model's
coverage says of the labels that are expected, corrected by what came of such expectations on this stream: a second
model seldom knows what a first one did not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.probability import Probabilities

#: Submodels that look at one frame, at most. A third look brought nothing at equal disagreement.
_MOST = 2
#: Every so many frames on which a look was skipped it is taken, or nobody would know that it pays again.
_EXPLORE_EVERY = 16
#: Weight of the latest round trip in their running mean.
_LATEST = 0.1
#: Looks that the expectation counts for at first, and after which one counts 1/e.
_PRIOR_LOOKS, _MEMORY = 8.0, 200.0


class Probe(NamedTuple):
    """A look that is worth it: ``place`` in the order from 0, ``chance`` of a hit by its coverage."""

    model: LocalModel
    place: int
    chance: float


class ProbeOrder:
    """What looks have been worth on this stream."""

    def __init__(self) -> None:
        self._hits, self._expected = [_PRIOR_LOOKS] * _MOST, [_PRIOR_LOOKS] * _MOST
        self._round_trip_s: float | None = None
        self._skipped = [0] * _MOST

    def plan(self, models: Sequence[LocalModel], labels: Probabilities) -> Iterator[Probe]:
        """The looks that are worth it, in the order of expected hits a second.

        Args:
            models: The residents.
            labels: What is expected of the frame ``(classes,)``.
        """
        if not models:
            return
        chances = [float(model.coverage @ labels) for model in models]
        gains = [chance / max(model.seconds, 1e-9) for model, chance in zip(models, chances, strict=True)]
        order = sorted(range(len(models)), key=gains.__getitem__, reverse=True)[:_MOST]
        for place, which in enumerate(order):
            if not self._is_worthwhile(place, chances[which], models[which].seconds):
                return
            self._skipped[place] = 0
            yield Probe(models[which], place, chances[which])

    def record_outcome(self, probe: Probe, hit: bool) -> None:
        """What came of a look."""
        kept = np.exp(-1.0 / _MEMORY)
        self._hits[probe.place] = kept * self._hits[probe.place] + hit
        self._expected[probe.place] = kept * self._expected[probe.place] + probe.chance

    def record_round_trip(self, seconds: float | None) -> None:
        """How long the full model's answer took; None if none came: then nothing is known of what it would cost."""
        if seconds is None or self._round_trip_s is None:
            self._round_trip_s = seconds
        else:
            self._round_trip_s += _LATEST * (seconds - self._round_trip_s)

    def _is_worthwhile(self, place: int, chance: float, seconds: float) -> bool:
        ratio = self._hits[place] / max(self._expected[place], 1e-9)
        if self._round_trip_s is None or ratio * chance * self._round_trip_s >= seconds:
            return True
        self._skipped[place] += 1
        return self._skipped[place] >= _EXPLORE_EVERY
