"""A lane: one direction of a link, as a rule for when bytes arrive. Pure: no clock, no socket.

What TCP makes of a network is modelled, not the packets: bytes arrive whole and in order, and a lost segment shows
as a pause of everything behind it.

- *Rate*: the line sends one byte after another, so data handed over together queue behind each other.
- *Delay*: half the round trip, plus jitter that only ever adds, as queues on a path do: ``max(0, N(0, s))`` with
  ``s = jitter / sqrt(2)``, so that both ways together vary by the link's jitter.
- *Loss*: with three segments behind it in the same write a lost one is repaired by fast retransmit, one round trip
  later (three duplicate acknowledgements, RFC 5681 section 3.2). Otherwise the timer expires, after a round trip plus
  200 ms or four deviations, whichever is more: RFC 6298 section 2 with Linux's lower bound (``TCP_RTO_MIN``, HZ/5)
  in place of its one second. A repair that is lost too waits twice as long each time (section 5.5).
"""

from __future__ import annotations

import math
import random

from simulator.links import LinkProfile

SEGMENT = 1460
_RTO_MIN_S = 0.2
_DUPLICATES = 3


class Lane:
    """Times are seconds on any clock that does not run backwards. The same seed gives the same link."""

    def __init__(self, rtt_ms: float, jitter_ms: float, mbit: float, loss: float, seed: int) -> None:
        self.bytes_per_s = mbit * 1e6 / 8
        self.delay_s = rtt_ms / 2e3
        self._rtt_s = rtt_ms / 1e3
        self._rto_s = self._rtt_s + max(_RTO_MIN_S, 4 * jitter_ms / 1e3)
        self._deviation_s = jitter_ms / 1e3 / math.sqrt(2)
        self._loss = loss
        self._random = random.Random(seed)
        self._line_free = -math.inf
        self._latest = -math.inf

    def schedule(self, now: float, nbytes: int) -> float:
        """When the last of ``nbytes`` that enter at ``now`` leaves at the far end."""
        self._line_free = max(now, self._line_free) + nbytes / self.bytes_per_s
        jitter = max(0.0, self._random.gauss(0.0, self._deviation_s))
        # Nothing overtakes: whatever held up earlier bytes holds up these.
        self._latest = max(self._latest, self._line_free + self.delay_s + jitter + self._repair(nbytes))
        return self._latest

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


def lanes(profile: LinkProfile, seed: int) -> tuple[Lane, Lane]:
    """The lanes up from and down to the device, with random numbers of their own each."""
    return (
        Lane(profile.rtt_ms, profile.jitter_ms, profile.up_mbit, profile.loss, 2 * seed),
        Lane(profile.rtt_ms, profile.jitter_ms, profile.down_mbit, profile.loss, 2 * seed + 1),
    )
