"""The server's settings: one TOML file, ``CACHENET_*`` variables over it, flags over both."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec

from cachenet.shared.bundle.manifest import WayFlag
from cachenet.shared.inference.engine import Provider

EMBEDDED = "embedded"

Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


def default_threads() -> int:
    """As many as the processors that this process may use: a server has nothing else to do with them."""
    return min(64, len(os.sched_getaffinity(0)))


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything ``cloud-server run`` can be told. Empty strings mean: not set. ``listen`` and ``port`` are the
    embedded broker's. ``layer_caches``: between the full model's layers. ``specialise``: train submodels for what
    devices see; ``data``, ``held_out``, ``key`` and ``work`` are of that. There is no password here, so that none is
    ever printed."""

    bundle: str = ""
    broker: str = EMBEDDED
    listen: str = "127.0.0.1"
    port: Port = 1883
    password_file: str = ""
    ca: str = ""
    provider: Provider = "auto"
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = msgspec.field(default_factory=default_threads)
    queue: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 64
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    layer_caches: WayFlag = "off"
    metrics: str = ""
    specialise: bool = False
    data: str = ""
    held_out: str = ""
    key: str = ""
    work: str = "updates"
