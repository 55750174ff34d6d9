"""Link profiles: the named networks between a device and its broker, as data (``profiles/links.toml``)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class UnknownLink(ValueError):
    """A name that no profile has; the text lists those that have one."""


class LinkProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network, as seen from the device. ``rtt_ms`` is the round trip of the empty link and ``jitter_ms`` its
    standard deviation, milliseconds; rates are in Mbit/s; ``loss`` is the share of segments lost; for ``outage_s``
    seconds of every minute nothing gets through."""

    rtt_ms: NotNegative
    jitter_ms: NotNegative
    up_mbit: Positive
    down_mbit: Positive
    loss: Annotated[float, msgspec.Meta(ge=0, le=0.5)]
    outage_s: Annotated[float, msgspec.Meta(ge=0, le=50)]


@cache
def profiles() -> dict[str, LinkProfile]:
    """All profiles by name."""
    data = (files("simulator") / "profiles" / "links.toml").read_bytes()
    return msgspec.toml.decode(data, type=dict[str, LinkProfile])


def load(name: str) -> LinkProfile:
    """The profile called ``name``. Raises ``UnknownLink``."""
    try:
        return profiles()[name]
    except KeyError:
        raise UnknownLink(f"no link {name!r}; known are {', '.join(profiles())}") from None
