"""Messages about a fleet: the figures of a device, and the rollout of a newer version of a bundle."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from cachenet.shared.transport.protocol import Malformed

#: Largest message with a device's status or figures, bytes.
MAX_REPORT = 32 << 10
T = TypeVar("T")

#: Largest count, which a float still holds exactly. JSON has no bound, and a longer number cannot be averaged or shown.
MAX_COUNT = 2**53 - 1

Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Share = Annotated[float, Meta(ge=0, le=1)]
Number = Annotated[float, Meta(ge=0)]


class Recent(msgspec.Struct, frozen=True):
    """Answers since the message before.

    Attributes:
        frames: Number of answered frames.
        local: Share of these that the device has answered itself.
        fallbacks: Share of these without an answer in time.
        latency_ms: Median latency, milliseconds.
        latency_p95_ms: 95th percentile of the latency, milliseconds.
    """

    frames: Count
    local: Share
    fallbacks: Share
    latency_ms: Number
    latency_p95_ms: Number


class Stats(msgspec.Struct, frozen=True):
    """Figures of a device, of all its cameras together, as JSON. Counters begin with the process.

    Attributes:
        bundle: Version of the active bundle.
        seconds: Time since the start of the process.
        period_s: Time between two messages, seconds.
        levels: Answered frames by the level that answered.
        asked: Frames that needed the full model, audited hits included.
        errors: Frames without an answer because of an unexpected error, and failed runs of models.
        audits: Audited hits with a reply, since the version became active.
        wrong: Sum of the errors of these.
        alarms: Alarms of the audits, since the version became active.
        error: Estimated share of answers that disagree with the full model, with the lower and upper end of its 95 %
            interval; of several cameras, that with the highest upper end. None before the first audit.
        budget: Risk budget of these answers.
        recent: Answers since the message before.
        faults: Faults of the device as one line, as in ``/health``; empty without a fault.
        at: Time of the device's clock, seconds since the epoch. 0: unknown.
    """

    bundle: str
    seconds: Number
    period_s: Number
    levels: dict[str, Count]
    asked: Count
    errors: Count
    audits: Count
    wrong: Number
    alarms: Count
    error: tuple[Share, Share, Share] | None
    budget: Share
    recent: Recent
    faults: str = ""
    at: Number = 0.0


def read(payload: bytes, kind: type[T]) -> T:
    """Decode a message in JSON of at most ``MAX_REPORT`` bytes. Raises ``Malformed``."""
    if len(payload) > MAX_REPORT:
        raise Malformed(f"message of {len(payload)} bytes, {MAX_REPORT} allowed")
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from None
