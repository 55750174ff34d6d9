"""One direction of a link: a rule for when bytes arrive. Pure: no clock, no socket.

The model is of TCP's behaviour, not of packets. Bytes arrive complete and in order; a lost segment delays everything
behind it.

- *Rate*: the line sends one byte after another, so writes queue behind each other.
- *Delay*: half the round trip plus jitter ``max(0, N(0, s))`` with ``s = jitter / sqrt(2)``. Jitter only adds, as
  queues on a path do; both directions together vary by the link's jitter.
- *Recorded links*: rate and delay vary with time. Bytes on the line continue at the new rate.
- *Loss*: fast retransmit repairs a lost segment with three segments behind it in the same write after one round trip
  (three duplicate acknowledgements, RFC 5681 section 3.2). Otherwise the retransmission timer expires after a round
  trip plus 200 ms or four deviations, whichever is more (RFC 6298 section 2 with Linux's lower bound ``TCP_RTO_MIN``,
  HZ/5, in place of one second). A lost repair doubles the timer (section 5.5).
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Sequence
from itertools import accumulate

from cachenet.simulator.world.link_profiles import LinkProfile, history

#: Size of a TCP segment, bytes.
SEGMENT = 1460
#: Linux's least retransmission time-out beyond the round trip, seconds.
_RTO_MIN_S = 0.2
#: Duplicate acknowledgements that start a fast retransmit.
_DUPLICATES = 3


class LinkDirection:
    """Arrival times of one direction. Times are seconds on any monotonic clock; that of a recorded link starts at 0.

    Example:
        >>> direction = LinkDirection(rtt_ms=100, jitter_ms=0, mbit=8, loss=0, seed=0)
        >>> [round(direction.schedule(0.0, 10_000), 3) for _ in range(2)]
        [0.06, 0.07]

    Attributes:
        busy_s: Time that the line has been sending, seconds.
        line_free: Time at which the line has sent everything.
    """

    def __init__(
        self,
        rtt_ms: float,
        jitter_ms: float,
        mbit: float,
        loss: float,
        seed: int,
        history: Sequence[tuple[float, float, float]] = (),
    ) -> None:
        """Create a direction.

        Args:
            rtt_ms: Round trip of the empty link, milliseconds.
            jitter_ms: Standard deviation of the round trip, milliseconds.
            mbit: Rate, Mbit/s.
            loss: Share of segments lost, 0 to 1.
            seed: Seed of jitter and losses.
            history: A recorded link, see ``link_profiles.history``; empty: the link is constant.
        """
        self.bytes_per_s = mbit * 1e6 / 8
        self.delay_s = rtt_ms / 2e3
        self.busy_s = 0.0
        history = history or [(math.inf, rtt_ms, mbit)]
        self._history = [(rtt / 2e3, rate * 1e6 / 8) for _, rtt, rate in history]
        self._ends = list(accumulate(duration for duration, _, _ in history))
        self._rtt_s = rtt_ms / 1e3
        self._rto_s = self._rtt_s + max(_RTO_MIN_S, 4 * jitter_ms / 1e3)
        self._deviation_s = jitter_ms / 1e3 / math.sqrt(2)
        self._loss = loss
        self._random = random.Random(seed)
        self.line_free = -math.inf
        self._latest = -math.inf

    def schedule(self, now: float, nbytes: int) -> float:
        """Arrival time of the last of ``nbytes`` that enter at ``now``."""
        start = max(now, self.line_free)
        self.line_free = self._sent(start, nbytes)
        self.busy_s += self.line_free - start
        jitter = max(0.0, self._random.gauss(0.0, self._deviation_s))
        delay_s = self._at(self.line_free)[0]
        # Bytes arrive in order: a delay of earlier bytes delays these.
        self._latest = max(self._latest, self.line_free + delay_s + jitter + self._repair(nbytes))
        return self._latest

    @property
    def in_flight(self) -> int:
        """The bandwidth-delay product at its largest, bytes."""
        return round(max(2 * delay_s * rate for delay_s, rate in self._history))

    def _at(self, now: float) -> tuple[float, float, float]:
        """Delay and rate at ``now``, and the time until they change."""
        into = now % self._ends[-1]
        place = bisect.bisect_right(self._ends, into) % len(self._ends)
        return (*self._history[place], self._ends[place] - into)

    def _sent(self, now: float, nbytes: float) -> float:
        """Time at which a free line has sent ``nbytes``."""
        while True:
            _, rate, left_s = self._at(now)
            if nbytes <= rate * left_s:
                return now + (nbytes / rate if nbytes else 0.0)
            nbytes -= rate * left_s
            # Advance by at least one float: rounding must not stop the time.
            now = max(now + left_s, math.nextafter(now, math.inf))

    def _repair(self, nbytes: int) -> float:
        """Repair time of the slowest lost segment of this write, seconds."""
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


def directions(profile: LinkProfile, seed: int) -> tuple[LinkDirection, LinkDirection]:
    """The directions up from and down to the device, each with its own random numbers."""
    common = profile.rtt_ms, profile.jitter_ms
    return (
        LinkDirection(*common, profile.up_mbit, profile.loss, 2 * seed, history(profile, up=True)),
        LinkDirection(*common, profile.down_mbit, profile.loss, 2 * seed + 1, history(profile, up=False)),
    )
