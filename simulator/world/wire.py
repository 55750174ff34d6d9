"""A device's link on virtual time; how long bytes take is for the lane to say that the link emulator uses."""

from __future__ import annotations

from collections.abc import Callable

import simpy

from cachenet.simulator.world.emulator import OUTAGE_AT_S
from cachenet.simulator.world.lane import LinkDirection

_MINUTE_S = 60.0


class Link:
    """One direction of a device's link: bytes in, time of arrival out. In an outage the link's own clock stands
    still."""

    def __init__(self, env: simpy.Environment, lane: LinkDirection, outage_s: float) -> None:
        self._env, self._lane, self._outage_s = env, lane, outage_s
        self.bytes = 0

    @property
    def busy_s(self) -> float:
        """For how long it has been sending."""
        return self._lane.busy_s

    def carry(self, nbytes: int, arrived: Callable[[], object]) -> None:
        """Send now; ``arrived`` is called when the last byte is there."""
        self.bytes += nbytes
        due = self._real(self._lane.schedule(self._alive(self._env.now), nbytes))
        after(self._env, due - self._env.now, arrived)

    def _alive(self, real: float) -> float:
        """The link's own time: how long it has been alive."""
        if not self._outage_s or real <= OUTAGE_AT_S:
            return real
        minutes, rest = divmod(real - OUTAGE_AT_S, _MINUTE_S)
        return OUTAGE_AT_S + minutes * (_MINUTE_S - self._outage_s) + max(0.0, rest - self._outage_s)

    def _real(self, alive: float) -> float:
        if not self._outage_s or alive <= OUTAGE_AT_S:
            return alive
        minutes, rest = divmod(alive - OUTAGE_AT_S, _MINUTE_S - self._outage_s)
        return OUTAGE_AT_S + minutes * _MINUTE_S + self._outage_s + rest


def after(env: simpy.Environment, seconds: float, call: Callable[[], object]) -> None:
    """Have ``call`` called in so many seconds."""

    def happen(_event: simpy.Event) -> None:
        call()

    event = env.timeout(max(0.0, seconds))
    event.callbacks.append(happen)
