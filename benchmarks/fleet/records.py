"""What simulated devices record, and the gaps in their service. Pure: no input or output.

All times are seconds on the monotonic clock of the machine, which its processes share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Question(NamedTuple):
    """A picture that a device asked about until it was answered in time.

    Attributes:
        asked: Time of the first attempt.
        answered: Time of the answer in time; infinite without one.
        attempts: Number of attempts.
        latency: Time from the last attempt to its answer, seconds.
    """

    asked: float
    answered: float
    attempts: int
    latency: float

    @property
    def gap(self) -> float:
        """Time without service, seconds; 0 if the first attempt was answered in time."""
        return 0.0 if self.attempts == 1 else self.answered - self.asked


class DeviceRecord(NamedTuple):
    """What one device has done.

    Attributes:
        questions: In the order of their first attempts.
        moves: Times of its connections, each with the port of the broker.
        stored: Number of pictures that its outbox stored.
        delivered: Number of those that a server answered.
        audits: Numbers of audits that were sent, and of those that were answered.
    """

    questions: list[Question]
    moves: list[tuple[float, int]]
    stored: int
    delivered: int
    audits: tuple[int, int]

    def broker(self, at: float) -> int | None:
        """Port of the broker that the device used at a time; None before its first connection."""
        return next((port for time, port in reversed(self.moves) if time < at), None)


class Kill(NamedTuple):
    """A killed process: the port of a broker, or None for a server, whose loss concerns all devices."""

    time: float
    broker: int | None


def gaps(kill: Kill, until: float, devices: Iterable[DeviceRecord], margin: float) -> tuple[float, float]:
    """The longest gap of the devices of what was killed, and of all others, seconds.

    Args:
        until: Time of the next kill, or of the end.
        margin: Time before the kill in which a question may have been under way, seconds.
    """
    concerned = others = 0.0
    for device in devices:
        asked = [one for one in device.questions if kill.time - margin <= one.asked < until - margin]
        longest = max((one.gap for one in asked), default=0.0)
        if kill.broker is None or device.broker(kill.time) == kill.broker:
            concerned = max(concerned, longest)
        else:
            others = max(others, longest)
    return concerned, others


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan
