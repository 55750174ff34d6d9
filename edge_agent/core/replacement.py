"""Which submodel goes when another needs its room: the one that is worth least, by one of four measures.

- ``lru``: least recently used, the rule of CacheNet (arXiv 2007.01793, section IV).
- ``lfu``: least often used, an earlier use counting less by half after ``_HALVING`` uses of any.
- ``gdsf``: greedy dual size frequency (L. Cherkasova, HP Laboratories report HPL-98-69, 1998): uses per byte, over a
  clock that rises to the worth of whatever was dropped last, so that old merit fades.
- ``context``: hits per byte to be expected of it, over the base model's, under the present working set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from shared.gate import Posterior

Policy = Literal["lru", "lfu", "gdsf", "context"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

_HALVING = 1000


@dataclass(slots=True)
class Merit:
    """What is known of a resident. ``gain``: per label, the share of frames it answers and the base model does not;
    ``last``: number of its last use, counting the uses of all; ``clock``: what the clock showed then."""

    cost: int
    gain: Posterior
    last: int = 0
    uses: float = 0.0
    clock: float = 0.0


class Replacement:
    """The merits of the residents, by one policy."""

    def __init__(self, policy: Policy = "lru") -> None:
        self._worth: Callable[[Merit, Posterior], float] = getattr(self, f"_{policy}")
        self._merits: dict[str, Merit] = {}
        self._uses = 0
        self._clock = 0.0

    def add(self, name: str, cost: int, gain: Posterior) -> None:
        """A model became resident; that is its first use."""
        self._merits[name] = Merit(cost, gain)
        self.use(name)

    def use(self, name: str) -> None:
        self._uses += 1
        merit = self._merits[name]
        merit.uses = 1.0 + self._faded(merit)
        merit.last, merit.clock = self._uses, self._clock

    def drop(self, name: str) -> None:
        del self._merits[name]

    def victim(self, names: Iterable[str], labels: Posterior) -> str:
        """Who of ``names`` goes first under the working set ``labels``; of equals, the one used longest ago."""
        worth = {name: self._worth(self._merits[name], labels) for name in names}
        name = min(worth, key=lambda one: (worth[one], self._merits[one].last))
        self._clock = max(self._clock, worth[name])
        return name

    def _faded(self, merit: Merit) -> float:
        return float(merit.uses * 0.5 ** ((self._uses - merit.last) / _HALVING))

    def _lru(self, merit: Merit, _labels: Posterior) -> float:
        return merit.last

    def _lfu(self, merit: Merit, _labels: Posterior) -> float:
        return self._faded(merit)

    def _gdsf(self, merit: Merit, _labels: Posterior) -> float:
        return merit.clock + merit.uses / max(1, merit.cost)

    def _context(self, merit: Merit, labels: Posterior) -> float:
        return float(np.dot(labels, merit.gain)) / max(1, merit.cost)
