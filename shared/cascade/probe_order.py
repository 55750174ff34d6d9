"""Which submodels probe a frame after the base model, and in which order.

A probe costs its run time. If it leads to a hit, it saves the round trip to the full model. The probability of a hit is
the submodel's coverage of the expected labels, corrected by the ratio of observed to expected hits on this stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.probability import Probabilities

#: Most submodels that probe one frame. A third gave no gain at equal disagreement.
_MAX_PROBES = 2
#: A position that was skipped this often in a row, the present frame included, is probed to update its hit ratio.
_EXPLORE_EVERY = 16
#: Weight of the latest round trip in the running mean.
_LATEST_WEIGHT = 0.1
#: Prior weight of a hit ratio of 1, in expected hits.
_PRIOR_HITS = 8.0
#: Decay constant of the hit ratio's statistics, probes.
_DECAY_PROBES = 200.0


class Probe(NamedTuple):
    """One probe.

    Attributes:
        position: Position in the order, from 0.
        expected: Probability of a hit by the submodel's coverage.
    """

    model: LocalModel
    position: int
    expected: float


class ProbeOrder:
    """Ratio of observed to expected hits at each position, and the mean round trip, of one stream."""

    def __init__(self) -> None:
        self._hits, self._expected = [_PRIOR_HITS] * _MAX_PROBES, [_PRIOR_HITS] * _MAX_PROBES
        self._round_trip_s: float | None = None
        self._skipped = [0] * _MAX_PROBES

    def plan(self, models: Sequence[LocalModel], labels: Probabilities) -> Iterator[Probe]:
        """Yield the worthwhile probes, in the order of expected hits per second.

        Args:
            models: The resident submodels.
            labels: Probability of each label on the present frame ``(classes,)``.
        """
        if not models:
            return
        expected = [float(model.coverage @ labels) for model in models]
        rates = [one / max(model.seconds, 1e-9) for model, one in zip(models, expected, strict=True)]
        order = sorted(range(len(models)), key=rates.__getitem__, reverse=True)[:_MAX_PROBES]
        for position, at in enumerate(order):
            if not self._is_worthwhile(position, expected[at], models[at].seconds):
                return
            self._skipped[position] = 0
            yield Probe(models[at], position, expected[at])

    def record_outcome(self, probe: Probe, hit: bool) -> None:
        """Record whether a probe led to a hit."""
        decay = np.exp(-1.0 / _DECAY_PROBES)
        self._hits[probe.position] = decay * self._hits[probe.position] + hit
        self._expected[probe.position] = decay * self._expected[probe.position] + probe.expected

    def record_round_trip(self, seconds: float | None) -> None:
        """Record the time of the full model's reply, seconds; None for no reply: then every probe is worthwhile."""
        if seconds is None or self._round_trip_s is None:
            self._round_trip_s = seconds
        else:
            self._round_trip_s += _LATEST_WEIGHT * (seconds - self._round_trip_s)

    def _is_worthwhile(self, position: int, expected: float, seconds: float) -> bool:
        """Whether a probe saves more time than it costs, on average, or is due for exploration."""
        ratio = self._hits[position] / max(self._expected[position], 1e-9)
        if self._round_trip_s is None or ratio * expected * self._round_trip_s >= seconds:
            return True
        self._skipped[position] += 1
        return self._skipped[position] >= _EXPLORE_EVERY
