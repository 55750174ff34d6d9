"""One direction of a device's link on virtual time. ``LinkDirection`` decides when bytes arrive."""

from __future__ import annotations

from collections.abc import Callable

import simpy

from cachenet.simulator.world.emulator import OUTAGE_AT_S
from cachenet.simulator.world.link_direction import LinkDirection

_MINUTE_S = 60.0


class Link:
    """One direction of a link. During an outage the link's clock stands still.

    Attributes:
        bytes: Bytes that have entered the link.
    """

    def __init__(self, env: simpy.Environment, direction: LinkDirection, outage_s: float) -> None:
        """Create a link that is down for ``outage_s`` seconds of every minute."""
        self._env, self._direction, self._outage_s = env, direction, outage_s
        self.bytes = 0

    @property
    def busy_s(self) -> float:
        """Time that the link has been sending, seconds."""
        return self._direction.busy_s

    @property
    def busy(self) -> bool:
        """Whether the line is still sending."""
        return self._direction.line_free > self._link_time(self._env.now)

    def carry(self, nbytes: int, arrived: Callable[[], object]) -> None:
        """Send ``nbytes`` now; call ``arrived`` when the last byte arrives."""
        self.bytes += nbytes
        due = self._real_time(self._direction.schedule(self._link_time(self._env.now), nbytes))
        after(self._env, due - self._env.now, arrived)

    def _link_time(self, real: float) -> float:
        """Real time without outages, seconds."""
        if not self._outage_s or real <= OUTAGE_AT_S:
            return real
        minutes, rest = divmod(real - OUTAGE_AT_S, _MINUTE_S)
        return OUTAGE_AT_S + minutes * (_MINUTE_S - self._outage_s) + max(0.0, rest - self._outage_s)

    def _real_time(self, link_time: float) -> float:
        """The inverse of ``_link_time``."""
        if not self._outage_s or link_time <= OUTAGE_AT_S:
            return link_time
        minutes, rest = divmod(link_time - OUTAGE_AT_S, _MINUTE_S - self._outage_s)
        return OUTAGE_AT_S + minutes * _MINUTE_S + self._outage_s + rest


def after(env: simpy.Environment, seconds: float, call: Callable[[], object]) -> None:
    """Call ``call`` after ``seconds``."""

    def happen(_event: simpy.Event) -> None:
        call()

    event = env.timeout(max(0.0, seconds))
    event.callbacks.append(happen)
