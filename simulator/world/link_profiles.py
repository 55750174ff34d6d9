"""Profiles of the link between device and broker: named ones (``profiles/links.toml``) and recorded ones (CSV)."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import msgspec

from cachenet.shared.command.errors import UserError

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class UnknownLink(UserError, ValueError):
    """No profile has the name, or the file is no recorded link. The message lists the names or describes the error."""


class Moment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """State of a recorded link from ``time_s`` on: round trip, milliseconds, and rates, Mbit/s (0: interrupted)."""

    time_s: NotNegative
    rtt_ms: NotNegative
    up_mbit: NotNegative
    down_mbit: NotNegative


class LinkProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network, from the device's side.

    Attributes:
        rtt_ms: Round trip of the empty link, milliseconds; the mean of a recorded link.
        jitter_ms: Standard deviation of the round trip, milliseconds.
        up_mbit, down_mbit: Rates, Mbit/s; means of a recorded link.
        loss: Share of segments lost.
        outage_s: Seconds of every minute in which the link is down.
        trace: A recorded link over time. It repeats; its last moment lasts as long as the one before it.
    """

    rtt_ms: NotNegative
    jitter_ms: NotNegative
    up_mbit: Positive
    down_mbit: Positive
    loss: Annotated[float, msgspec.Meta(ge=0, le=0.5)]
    outage_s: Annotated[float, msgspec.Meta(ge=0, le=50)]
    trace: tuple[Moment, ...] = ()


@cache
def profiles() -> dict[str, LinkProfile]:
    """All profiles by name."""
    data = (files("cachenet.simulator") / "profiles" / "links.toml").read_bytes()
    return msgspec.toml.decode(data, type=dict[str, LinkProfile])


def load(name: str) -> LinkProfile:
    """The profile ``name``, or the recorded link in the CSV file ``name``. Raises ``UnknownLink``.

    Example:
        >>> load("wifi").up_mbit
        30.0
    """
    if name.endswith(".csv"):
        return _recorded(Path(name))
    try:
        return profiles()[name]
    except KeyError:
        raise UnknownLink(f"no link {name!r}; known are {', '.join(profiles())}, or a file NAME.csv") from None


def _recorded(path: Path) -> LinkProfile:
    try:
        with path.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
            trace = tuple(msgspec.convert(row, Moment, strict=False) for row in rows)
    except (OSError, UnicodeDecodeError) as error:
        raise UnknownLink(f"{path}: {getattr(error, 'strerror', None) or 'is no text'}") from None
    except (csv.Error, msgspec.ValidationError) as error:
        columns = ",".join(Moment.__struct_fields__)
        raise UnknownLink(f"{path}: {error}; its first line must be {columns}") from None
    if not trace or trace[0].time_s != 0 or any(one.time_s >= other.time_s for one, other in pairwise(trace)):
        raise UnknownLink(f"{path}: its times must begin at 0 and rise")
    durations = _durations(trace)

    def mean(values: list[float]) -> float:
        return sum(value * duration for value, duration in zip(values, durations, strict=True)) / sum(durations)

    up, down = mean([one.up_mbit for one in trace]), mean([one.down_mbit for one in trace])
    if not up or not down:
        raise UnknownLink(f"{path}: nothing ever gets through")
    return LinkProfile(mean([one.rtt_ms for one in trace]), 0.0, up, down, 0.0, 0.0, trace)


def _durations(trace: tuple[Moment, ...]) -> list[float]:
    """Duration of each moment, seconds."""
    gaps = [other.time_s - one.time_s for one, other in pairwise(trace)] or [1.0]
    return [*gaps, gaps[-1]][: len(trace)]


def history(profile: LinkProfile, up: bool) -> list[tuple[float, float, float]]:
    """One direction of a recorded link: duration, seconds, round trip, milliseconds, and rate, Mbit/s, of each moment.
    Empty for a link that was not recorded."""
    return [
        (duration, one.rtt_ms, one.up_mbit if up else one.down_mbit)
        for duration, one in zip(_durations(profile.trace), profile.trace, strict=False)
    ]
