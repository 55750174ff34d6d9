"""A lane: one direction of a link, as a rule for when bytes arrive. Pure: no clock, no socket.

What TCP makes of a network is modelled, not the packets: bytes arrive whole and in order, and a lost segment shows
as a pause of everything behind it.

- *Rate*: the line sends one byte after another, so data handed over together queue behind each other.
- *Delay*: half the round trip, plus jitter that only ever adds, as queues on a path do: ``max(0, N(0, s))`` with
  ``s = jitter / sqrt(2)``, so that both ways together vary by the link's jitter.
- *Recorded links*: rate and delay are what they were at that time, and what is on the line while the rate changes goes
  on at the new one.
- *Loss*: with three segments behind it in the same write a lost one is repaired by fast retransmit, one round trip
  later (three duplicate acknowledgements, RFC 5681 section 3.2). Otherwise the timer expires, after a round trip plus
  200 ms or four deviations, whichever is more: RFC 6298 section 2 with Linux's lower bound (``TCP_RTO_MIN``, HZ/5)
  in place of its one second. A repair that is lost too waits twice as long each time (section 5.5).
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Sequence
from itertools import accumulate

from cachenet.simulator.world.links import LinkProfile, course

SEGMENT = 1460
_RTO_MIN_S = 0.2
_DUPLICATES = 3


class LinkDirection:
    """Times are seconds on any clock that does not run backwards; that of a recorded link begins at 0. The same seed
    gives the same link."""

    def __init__(
        self,
        rtt_ms: float,
        jitter_ms: float,
        mbit: float,
        loss: float,
        seed: int,
        course: Sequence[tuple[float, float, float]] = (),
    ) -> None:
        """``course``: see ``links.course``; without one the link stays as it is."""
        self.bytes_per_s = mbit * 1e6 / 8
        self.delay_s = rtt_ms / 2e3
        #: For how long the line has been sending.
        self.busy_s = 0.0
        course = course or [(math.inf, rtt_ms, mbit)]
        self._course = [(rtt / 2e3, rate * 1e6 / 8) for _, rtt, rate in course]
        self._ends = list(accumulate(long for long, _, _ in course))
        self._rtt_s = rtt_ms / 1e3
        self._rto_s = self._rtt_s + max(_RTO_MIN_S, 4 * jitter_ms / 1e3)
        self._deviation_s = jitter_ms / 1e3 / math.sqrt(2)
        self._loss = loss
        self._random = random.Random(seed)
        self._line_free = -math.inf
        self._latest = -math.inf

    def schedule(self, now: float, nbytes: int) -> float:
        """When the last of ``nbytes`` that enter at ``now`` leaves at the far end."""
        start = max(now, self._line_free)
        self._line_free = self._sent(start, nbytes)
        self.busy_s += self._line_free - start
        jitter = max(0.0, self._random.gauss(0.0, self._deviation_s))
        delay_s = self._at(self._line_free)[0]
        # Nothing overtakes: whatever held up earlier bytes holds up these.
        self._latest = max(self._latest, self._line_free + delay_s + jitter + self._repair(nbytes))
        return self._latest

    @property
    def in_flight(self) -> int:
        """Bytes that fit on the way at the most, there and back."""
        return round(max(2 * delay_s * rate for delay_s, rate in self._course))

    def _at(self, now: float) -> tuple[float, float, float]:
        """Delay and rate, and for how much longer they hold."""
        into = now % self._ends[-1]
        place = bisect.bisect_right(self._ends, into) % len(self._ends)
        return (*self._course[place], self._ends[place] - into)

    def _sent(self, now: float, nbytes: float) -> float:
        """When a free line has sent ``nbytes``."""
        while True:
            _, rate, left_s = self._at(now)
            if nbytes <= rate * left_s:
                return now + (nbytes / rate if nbytes else 0.0)
            nbytes -= rate * left_s
            # At least to the next number, or rounding could hold the time where it is.
            now = max(now + left_s, math.nextafter(now, math.inf))

    def _repair(self, nbytes: int) -> float:
        """How long the slowest lost segment of this write takes to be sent again, seconds."""
        if not self._loss:
            return 0.0
        slowest = 0.0
        for behind in reversed(range(math.ceil(nbytes / SEGMENT))):
            if self._random.random() < self._loss:
                wait = self._rtt_s if behind >= _DUPLICATES else self._rto_s
                timer = self._rto_s
                while self._random.random() < self._loss:
                    timer *= 2
                    wait += timer
                slowest = max(slowest, wait)
        return slowest


def lanes(profile: LinkProfile, seed: int) -> tuple[LinkDirection, LinkDirection]:
    """The lanes up from and down to the device, with random numbers of their own each."""
    kind = profile.rtt_ms, profile.jitter_ms
    return (
        LinkDirection(*kind, profile.up_mbit, profile.loss, 2 * seed, course(profile, up=True)),
        LinkDirection(*kind, profile.down_mbit, profile.loss, 2 * seed + 1, course(profile, up=False)),
    )
