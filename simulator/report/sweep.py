"""A sweep: the same comparison at several values of one quantity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import msgspec
import numpy as np

from cachenet.shared.command.errors import UserError
from cachenet.simulator.report.comparison import Found, Setup
from cachenet.simulator.world import link_profiles
from cachenet.simulator.world.link_profiles import LinkProfile

Key = Literal["link.rtt", "link.up", "link.down", "link.jitter", "link.loss", "stream.dwell"]
_FIELDS = {"rtt": "rtt_ms", "up": "up_mbit", "down": "down_mbit", "jitter": "jitter_ms", "loss": "loss"}
#: Values of a sweep that is given by its ends.
_STEPS = 6


class BadSweep(UserError, ValueError):
    """The text is no sweep, or the comparison cannot take the value. The message says why."""


@dataclass(frozen=True)
class Sweep:
    """The ``values`` of the quantity ``key``."""

    key: Key
    values: tuple[float, ...]

    def at(self, setup: Setup, value: float) -> tuple[Setup, LinkProfile]:
        """Setup and link of the comparison at ``value``. Raises ``BadSweep``."""
        profile = link_profiles.load(setup.link)
        kind, name = self.key.split(".")
        if setup.is_recorded if kind == "stream" else profile.trace:
            source = setup.stream if kind == "stream" else setup.link
            raise BadSweep(f"{source} is a recording: {self.key} cannot vary")
        if kind == "stream":
            return replace(setup, dwell=max(1, round(value))), profile
        fields = {**msgspec.to_builtins(profile), _FIELDS[name]: value}
        try:
            return setup, msgspec.convert(fields, LinkProfile)
        except msgspec.ValidationError as error:
            raise BadSweep(f"{self.key}={value:g}: {error}") from None


def parse(text: str) -> Sweep:
    """The sweep that ``text`` describes. Raises ``BadSweep``.

    Example:
        >>> parse("link.rtt=5..160").values
        (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
        >>> parse("link.rtt=5,50,200").values
        (5.0, 50.0, 200.0)
    """
    key, _, rest = text.partition("=")
    for known in get_args(Key):
        if key == known:
            return Sweep(known, _values(text, rest, integers=known == "stream.dwell"))
    raise BadSweep(f"{key!r} cannot be swept; {', '.join(get_args(Key))} can")


def _values(text: str, rest: str, integers: bool) -> tuple[float, ...]:
    number = r"\d+(?:\.\d+)?"
    if span := re.fullmatch(rf"({number})\.\.({number})", rest):
        first, last = float(span[1]), float(span[2])
        if 0 < first < last:
            values = np.geomspace(first, last, _STEPS).tolist()
            return tuple(
                dict.fromkeys(float(f"{value:.3g}") if not integers else float(round(value)) for value in values)
            )
    elif re.fullmatch(rf"{number}(?:,{number})*", rest):
        values = [float(value) for value in rest.split(",")]
        if all(value > 0 for value in values):
            return tuple(sorted(set(values)))
    raise BadSweep(f"{text!r} is no sweep; write link.rtt=5..200 or link.rtt=5,50,200, all above 0")


def to_builtins(sweep: Sweep, found: Sequence[Found]) -> dict[str, Any]:
    """The sweep and the result at each of its values, for JSON."""
    at = [{"value": value, "policies": one} for value, one in zip(sweep.values, found, strict=True)]
    return {"key": sweep.key, "at": at}
