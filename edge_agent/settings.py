"""The agent's settings: one TOML file, ``CACHENET_*`` variables over it, flags over both."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args
from urllib.parse import unquote, urlsplit

import msgspec

from cachenet.edge_agent.sources.frozen import OnFrozen
from cachenet.shared.bundle.manifest import WayFlag
from cachenet.shared.cascade.audits import FLOOR
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT
from cachenet.shared.inference.engine import Provider
from cachenet.shared.inference.image import Region
from cachenet.shared.transport.protocol import check_device

LevelFlag = Literal["frames", "submodels", "base", "full", "cloud"]
#: Those that answer unless it is said otherwise. ``full`` is the full model on the device itself: used where asking for
#: it takes longer than it, and fetched once questions have cost as many bytes as it has.
LEVELS: tuple[LevelFlag, ...] = ("frames", "submodels", "base", "full", "cloud")

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def default_device(broker: str) -> str:
    """The user of the broker's URL, as a broker with access control wants it, if that can be a device's name; or else
    the host's name, with what may not stand in a topic left out."""
    with suppress(ValueError):  # a URL that is none is refused elsewhere
        return check_device(unquote(urlsplit(broker).username or ""))
    return re.sub(r"[^A-Za-z0-9._-]", "", socket.gethostname().split(".")[0])[:64].lstrip("._-") or "device"


def default_store() -> str:
    return str(Path.home() / ".local" / "share" / "cachenet")


#: ``wait`` for the cloud until the deadline; ``async``: answer at once and correct later; ``offline``: never ask it.
Mode = Literal["wait", "async", "offline"]
MODES: tuple[Mode, ...] = get_args(Mode)


#: Frames a second.
Rate = Annotated[float, msgspec.Meta(ge=0.001, le=1e6)]


class CameraTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of several cameras: a ``[[camera]]`` of the TOML file. A ``region`` and ``fps`` that are not set are as they
    are for all."""

    name: str
    source: str
    region: str = ""
    fps: Rate | None = None
    record: str = ""
    flight: str = ""
    save: str = ""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything ``edge-agent run`` can be told. Empty strings mean: not set; ``device`` is then ``default_device``."""

    #: Settings of earlier versions, and what has taken their place.
    REPLACED: ClassVar[dict[str, str]] = {
        "max_false_hits": "use {max_disagreement}, the mean share of all answers that may disagree with the full model",
        "audit_budget": "use {audit_share}, the share of hits that the full model checks",
        "gate": "one learned risk decides every hit; {max_disagreement} bounds it",
        "context": "one learned risk decides every hit; {max_disagreement} bounds it",
        "replacement": "the submodel least recently used goes first; {memory_budget} bounds them",
    }

    source: str = ""
    broker: str = ""
    bundle: str = ""
    catalogue: str = ""
    store: str = msgspec.field(default_factory=default_store)
    device: str = ""
    password_file: str = ""
    ca: str = ""
    trusted_key: str = ""
    levels: tuple[LevelFlag, ...] = LEVELS
    base: str = ""
    region: str = ""
    max_disagreement: Annotated[float, msgspec.Meta(gt=0, lt=1)] = MAX_DISAGREEMENT
    audit_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = FLOOR
    mode: Mode = "wait"
    deadline_ms: Annotated[int, msgspec.Meta(ge=1, le=60_000)] = 250
    layer_caches: WayFlag = "gati"
    memory_budget: str = ""
    prefetch: bool = False
    provider: Provider = "auto"
    threads: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    slowdown: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 1.0
    fps: Rate | None = None
    frames: Annotated[int, msgspec.Meta(ge=1)] | None = None
    frozen: OnFrozen = "say"
    metrics: str = ""
    record: str = ""
    flight: str = ""
    output: str = ""
    output_max: str = ""
    summary: str = ""
    preview: str = ""
    save: str = ""
    misses: str = ""
    misses_budget: str = "100MB"
    results: bool = False
    home_assistant: bool = False
    discovery_prefix: str = "homeassistant"
    camera: tuple[CameraTable, ...] = ()

    def __post_init__(self) -> None:
        if not self.device:
            msgspec.structs.force_setattr(self, "device", default_device(self.broker))

    @property
    def name(self) -> str:
        """Of the camera whose settings these are; empty for the only one of a device."""
        return self.camera[0].name if self.camera else ""

    def each(self) -> tuple[Settings, ...]:
        """The settings of every camera. Raises ``ValueError`` for cameras that cannot be."""
        if not self.camera:
            return (self,)
        for name in ("source", "record", "flight", "save"):
            if getattr(self, name):
                raise ValueError(f"there are [[camera]] tables: give {name} in them, not for all cameras at once")
        if len(pipes := [own.name for own in self.camera if own.source.startswith("pipe:")]) > 1:
            raise ValueError(f"cameras {' and '.join(pipes)} both read standard input; only one can")
        names = [own.name for own in self.camera]
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
                raise ValueError(f"camera {name[:80]!r}: a name is letters, digits, '.', '_', '-', 64 at most")
            if names.count(name) > 1:
                raise ValueError(f"two cameras are called {name}; answers could not be told apart")
        return tuple(
            msgspec.structs.replace(
                self,
                source=own.source,
                region=own.region or self.region,
                fps=own.fps or self.fps,
                record=own.record,
                flight=own.flight,
                save=own.save,
                camera=(own,),
            )
            for own in self.camera
        )

    @property
    def local(self) -> bool:
        """Whether any model runs here."""
        return "base" in self.levels or "submodels" in self.levels


def region(text: str) -> Region:
    """That of ``0.25,0,0.5,1``. Raises ``ValueError``."""
    try:
        left, top, width, height = (float(part) for part in text.split(","))
    except ValueError:
        left, top, width, height = (0.0,) * 4
    if not (0 <= left < left + width <= 1 and 0 <= top < top + height <= 1):
        raise ValueError(f"{text!r} is no region; write left,top,width,height as shares, as in 0.25,0,0.5,1")
    return left, top, width, height


def parse_size(text: str) -> int:
    """Bytes of ``150MB``, ``64MiB``, ``2000000``. Raises ``ValueError``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?)b?\s*", text.lower())
    if not match or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no size; write 150MB or 64MiB")
    return int(min(float(match[1]), 1e12) * _UNITS[match[2]])
