"""The schedule of a fault run: which fault hits which process at what time. Pure: the seed decides everything."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

#: Faults that a connection to the broker can have.
LINK = ("partition", "half_open", "slow", "duplicate", "reorder")
#: Kinds that the server and the broker can have. An agent can have those of the server and more (``fleet.Agent``).
SERVER, BROKER = ("kill", "freeze", *LINK), ("kill", "freeze")
#: Share of the faults that hit the server, and the broker.
_SERVER_SHARE, _BROKER_SHARE = 0.15, 0.1
#: Shortest and longest fault, seconds; a few last longer, so that keep-alives (10 s) end connections.
_SHORT_S, _LONG_S, _LONG_SHARE = (0.3, 4.0), (8.0, 16.0), 0.08
#: Kinds that always last longer: the agent has to start, and to answer, with the fault.
_LONG = ("read_only",)


class Fault(NamedTuple):
    """One fault.

    Attributes:
        at: Time of its start, seconds from the start of the episode.
        seconds: Time from its start to its end.
        kind: What happens, such as ``kill``.
        target: ``server``, ``broker`` or the name of an agent.
        choice: Number from 0 to 1 that decides the details, such as which file is damaged.
    """

    at: float
    seconds: float
    kind: str
    target: str
    choice: float

    @property
    def end(self) -> float:
        """Time of its end, seconds from the start of the episode."""
        return self.at + self.seconds


def schedule(
    seed: str, count: int, every_s: float, possible: Mapping[str, Sequence[str]], longest_s: float = _LONG_S[1]
) -> tuple[Fault, ...]:
    """The faults of one episode, by time. No process has two faults at once; faults of several processes overlap.

    Args:
        seed: Any text.
        count: Number of faults.
        every_s: Mean time between two faults, seconds.
        possible: Kinds of each target, which include ``server`` and ``broker``.
        longest_s: Longest fault, seconds.
    """
    rng = random.Random(seed)
    free = dict.fromkeys(possible, 0.0)
    agents = [name for name in possible if name not in ("server", "broker")]
    faults = []
    for number in range(count):
        at, drawn = (number + rng.random()) * every_s, rng.random()
        target = "broker" if drawn < _BROKER_SHARE else "server" if drawn < _BROKER_SHARE + _SERVER_SHARE else ""
        if not target or free[target] > at:  # another process, or the first that has no fault
            idle = [name for name in agents if free[name] <= at]
            target = rng.choice(idle) if idle else min(possible, key=free.__getitem__)
        at = max(at, free[target])
        kind, is_long = rng.choice(list(possible[target])), rng.random() < _LONG_SHARE
        seconds = rng.uniform(*(_LONG_S if is_long or kind in _LONG else _SHORT_S))
        fault = Fault(at, min(seconds, longest_s), kind, target, rng.random())
        faults.append(fault)
        free[target] = fault.end
    return tuple(sorted(faults))
