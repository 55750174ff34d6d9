"""A sweep: the same comparison at several values of one thing."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

import msgspec
import numpy as np

from cachenet.shared.command.errors import UserError
from cachenet.simulator.report.comparison import Setup
from cachenet.simulator.world import links
from cachenet.simulator.world.links import LinkProfile

Key = Literal["link.rtt", "link.up", "link.down", "link.jitter", "link.loss", "stream.dwell"]
_FIELDS = {"rtt": "rtt_ms", "up": "up_mbit", "down": "down_mbit", "jitter": "jitter_ms", "loss": "loss"}
_STEPS = 6


class BadSweep(UserError, ValueError):
    """A sweep that makes no sense; the text says how to write one."""


@dataclass(frozen=True)
class Sweep:
    """``values`` of what ``key`` names."""

    key: Key
    values: tuple[float, ...]

    def at(self, setup: Setup, value: float) -> tuple[Setup, LinkProfile]:
        """The comparison with that value. Raises ``BadSweep`` if it may not be so."""
        profile = links.load(setup.link)
        what, name = self.key.split(".")
        if setup.recorded if what == "stream" else profile.trace:
            what = setup.stream if what == "stream" else setup.link
            raise BadSweep(f"{what} was recorded as it is: {self.key} cannot be another")
        if what == "stream":
            return replace(setup, dwell=max(1, round(value))), profile
        fields = {**msgspec.to_builtins(profile), _FIELDS[name]: value}
        try:
            return setup, msgspec.convert(fields, LinkProfile)
        except msgspec.ValidationError as error:
            raise BadSweep(f"{self.key}={value:g}: {error}") from None


def parse(text: str) -> Sweep:
    """``link.rtt=5..200``, in six equal ratios, or ``link.rtt=5,50,200``. Raises ``BadSweep``."""
    key, _, rest = text.partition("=")
    for known in get_args(Key):
        if key == known:
            return Sweep(known, _values(text, rest, whole=known == "stream.dwell"))
    raise BadSweep(f"{key!r} cannot be swept; {', '.join(get_args(Key))} can")


def _values(text: str, rest: str, whole: bool) -> tuple[float, ...]:
    number = r"\d+(?:\.\d+)?"
    if span := re.fullmatch(rf"({number})\.\.({number})", rest):
        first, last = float(span[1]), float(span[2])
        if 0 < first < last:
            values = np.geomspace(first, last, _STEPS).tolist()
            return tuple(dict.fromkeys(float(f"{value:.3g}") if not whole else float(round(value)) for value in values))
    elif re.fullmatch(rf"{number}(?:,{number})*", rest):
        values = [float(value) for value in rest.split(",")]
        if all(value > 0 for value in values):
            return tuple(sorted(set(values)))
    raise BadSweep(f"{text!r} is no sweep; write link.rtt=5..200 or link.rtt=5,50,200, all above 0")
