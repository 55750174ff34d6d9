"""Link profiles: the named networks between a device and its broker, as data (``profiles/links.toml``), and recorded
ones: a CSV file of what a link was like over time."""

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
    """A name that no profile has, or a file that is no recorded link; the text says which there are, or what is wrong
    with it."""


class Moment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a recorded link was like from ``time_s`` on: its round trip, milliseconds, and its rates, Mbit/s; 0 where
    nothing got through."""

    time_s: NotNegative
    rtt_ms: NotNegative
    up_mbit: NotNegative
    down_mbit: NotNegative


class LinkProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network, as seen from the device. ``rtt_ms`` is the round trip of the empty link and ``jitter_ms`` its
    standard deviation, milliseconds; rates are in Mbit/s; ``loss`` is the share of segments lost; for ``outage_s``
    seconds of every minute nothing gets through. A recorded link has a ``trace``, which begins anew after its last
    moment has lasted as long as the one before it; its rates and its round trip here are means, and jitter and loss are
    in what was recorded."""

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
    """The profile called ``name``, or the link that was recorded in the CSV file of that name. Raises
    ``UnknownLink``."""
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
    lasting = _lasting(trace)

    def mean(values: list[float]) -> float:
        return sum(value * long for value, long in zip(values, lasting, strict=True)) / sum(lasting)

    up, down = mean([one.up_mbit for one in trace]), mean([one.down_mbit for one in trace])
    if not up or not down:
        raise UnknownLink(f"{path}: nothing ever gets through")
    return LinkProfile(mean([one.rtt_ms for one in trace]), 0.0, up, down, 0.0, 0.0, trace)


def _lasting(trace: tuple[Moment, ...]) -> list[float]:
    """How long every moment lasts, seconds."""
    gaps = [other.time_s - one.time_s for one, other in pairwise(trace)] or [1.0]
    return [*gaps, gaps[-1]][: len(trace)]


def course(profile: LinkProfile, up: bool) -> list[tuple[float, float, float]]:
    """One direction of a recorded link: for how many seconds, with which round trip, milliseconds, at what rate,
    Mbit/s. Empty of a link that was not recorded."""
    return [
        (long, one.rtt_ms, one.up_mbit if up else one.down_mbit)
        for long, one in zip(_lasting(profile.trace), profile.trace, strict=False)
    ]
