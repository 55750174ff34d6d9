"""Probing: which local models look at a frame, in what order, and when another look does not pay.

A probe costs its run and saves, if it is a hit, the wait for the cloud. How often one is a hit is what the model's
coverage says of the labels that are expected, corrected by what came of such expectations on this stream: a second
model seldom knows what a first one did not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from edge_agent.core.submodels import LocalModel
from shared.gate import Posterior
from shared.habits import Learned

#: At most so many look at one frame, for a gate is proven with so many: each is another chance of a false hit.
_MOST = 3
#: Every so many frames that a look was spared it is taken, or it would never be known that it pays again.
_CURIOSITY = 16
#: Weight of the latest wait for the cloud in their running mean.
_LATEST = 0.1


class Probe(NamedTuple):
    """A ``model`` that is to look as the ``place``-th, from 0, and its expected ``chance`` of a hit."""

    model: LocalModel
    place: int
    chance: float


class Probing:
    """What probes have been worth on this stream."""

    def __init__(self) -> None:
        self._luck = [Learned(1.0) for _ in range(_MOST)]
        self._wait: float | None = None
        self._passed = [0] * _MOST
        #: Whose coverage and seconds these are. Not the models: those that are dropped must be free to go.
        self._names: tuple[str, ...] | None = None
        self._coverage = np.zeros((0, 0))
        self._seconds = np.zeros(0)

    def plan(self, models: Sequence[LocalModel], labels: Posterior) -> Iterator[Probe]:
        """Those that are worth it, in the order of expected gain per second: the one of which that is the most, and of
        the others those that know the most, for a cheap one adds little to another. ``labels``: what is expected."""
        if (names := tuple([model.name for model in models])) != self._names:
            self._names = names
            self._coverage = np.array([model.coverage for model in models]).reshape(len(models), len(labels))
            self._seconds = np.array([max(model.seconds, 1e-9) for model in models])
        if not models:
            return
        chances = self._coverage @ labels
        for place, which in enumerate(self._order(chances)):
            model, chance = models[which], float(chances[which])
            if not self._pays(place, chance, model.seconds):
                return
            self._passed[place] = 0
            yield Probe(model, place, chance)

    def _order(self, chances: Posterior) -> list[int]:
        gains = chances / self._seconds
        first = int(gains.argmax())
        others = [which for which in chances.argsort(kind="stable")[: -_MOST - 1 : -1].tolist() if which != first]
        return [first, *sorted(others[: _MOST - 1], key=gains.__getitem__, reverse=True)]

    def tried(self, probe: Probe, hit: bool) -> None:
        """What came of a probe."""
        self._luck[probe.place].learn(float(hit), probe.chance)

    def waited(self, seconds: float | None) -> None:
        """How long the cloud's answer took; None if none came, and then nothing is known of what it would cost."""
        if seconds is None or self._wait is None:
            self._wait = seconds
        else:
            self._wait += _LATEST * (seconds - self._wait)

    def _pays(self, place: int, chance: float, seconds: float) -> bool:
        if self._wait is None or self._luck[place].value * chance * self._wait >= seconds:
            return True
        self._passed[place] += 1
        return self._passed[place] >= _CURIOSITY
