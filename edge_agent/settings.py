"""Settings of the edge agent, in the order of ``docs/configuration.md``."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta

from cachenet.edge_agent.sources.frozen import FROZEN_S, ON_FROZEN, OnFrozen
from cachenet.edge_agent.zones import NAME, Zone, check_zones
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import ExitFlag, Task
from cachenet.shared.cascade.audits import MIN_AUDIT_RATE
from cachenet.shared.cascade.detect.spec import MAX_OBJECT_ERROR
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT
from cachenet.shared.command import config
from cachenet.shared.inference.engine import Provider
from cachenet.shared.inference.image import parse_region, region_text
from cachenet.shared.transport.protocol import check_device

LevelFlag = Literal["frames", "submodels", "base", "full", "cloud"]
#: Default levels. ``full`` is the full model on the device: it runs where a request to the cloud takes longer, and is
#: downloaded once the requests have cost as many bytes as its file.
LEVELS: tuple[LevelFlag, ...] = ("frames", "submodels", "base", "full", "cloud")

#: ``wait``: wait for the cloud until the deadline. ``async``: answer at once; the cloud corrects a label later, and its
#: objects are carried to later frames. ``offline``: no cloud.
Mode = Literal["wait", "async", "offline"]
#: ``auto``: ``wait`` for a classifier, ``async`` for a detector.
ModeFlag = Literal["auto", "wait", "async", "offline"]
MODES: tuple[ModeFlag, ...] = get_args(ModeFlag)

#: Frames per second.
Rate = Annotated[float, Meta(ge=0.001, le=1e6)]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def default_device(broker: str) -> str:
    """Default name of the device: the user of the broker's URL, or else the host's name, if valid in an MQTT topic."""
    with suppress(ValueError):  # the URL is validated elsewhere
        return check_device(unquote(urlsplit(broker.split(",", maxsplit=1)[0]).username or ""))
    return re.sub(r"[^A-Za-z0-9._-]", "", socket.gethostname().split(".")[0])[:64].lstrip("._-") or "device"


def default_store() -> str:
    return str(Path.home() / ".local" / "share" / "cachenet")


class CameraTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of several cameras: a ``[[camera]]`` table of the TOML file.

    Example:
        >>> Settings(camera=(CameraTable("door", "camera:0"), CameraTable("yard", "camera:1"))).each()[1].source
        'camera:1'

    Attributes:
        name: Unique name: letters, digits, ``.``, ``_`` and ``-``, 64 at most.
        region: As in ``Settings``; empty: the region of all cameras.
        fps: As in ``Settings``; None: the rate of all cameras.
        zone: ``[[camera.zone]]`` tables.
    """

    #: Keys of earlier versions, with their replacement.
    REPLACED: ClassVar[dict[str, str]] = {"flight": "use {decision_log}"}

    name: str
    source: str
    region: str = ""
    fps: Rate | None = None
    record: str = ""
    decision_log: str = ""
    save: str = ""
    zone: tuple[Zone, ...] = ()


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of ``edge-agent run`` and ``edge-agent doctor``. An empty string means: not set."""

    #: Settings of earlier versions, with their replacement.
    REPLACED: ClassVar[dict[str, str]] = {
        "max_false_hits": "use {max_disagreement}, the mean share of all answers that may disagree with the full model",
        "audit_budget": "use {audit_share}, the share of hits that the full model audits",
        "gate": "one learned risk decides every hit; {max_disagreement} bounds it",
        "context": "one learned risk decides every hit; {max_disagreement} bounds it",
        "replacement": "the least recently used submodel is evicted; {memory_budget} bounds them",
        "prefetch": "submodels are downloaded when the server recommends them",
        "layer_caches": "use {early_exits}",
        "trusted_key": "sign the bundle again, and use {trusted_root} (docs/signing.md)",
        "flight": "use {decision_log}",
    }
    #: Settings without a flag.
    FILE_ONLY: ClassVar[frozenset[str]] = frozenset(
        {
            *("catalogue", "levels", "base", "audit_share", "early_exits", "memory_budget", "threads", "slowdown"),
            *("frozen", "metrics", "record", "decision_log", "output_max", "summary", "misses", "misses_budget"),
            *("outbox", "results", "stats", "home_assistant", "discovery_prefix"),
        }
    )

    source: Annotated[
        str,
        Meta(
            description="Camera or file: camera:N, rtsp://..., http://..., picamera, pipe:WIDTHxHEIGHT, a video, "
            "a picture, a directory of pictures or a recorded stream."
        ),
    ] = ""
    broker: Annotated[
        str,
        Meta(description="Address of the MQTT broker, mqtt[s]://[user@]host[:port]; commas separate several brokers."),
    ] = ""
    bundle: Annotated[
        str, Meta(description=f"Bundle with the models, instead of the server's catalogue: {zoo.HELP}.")
    ] = ""
    catalogue: Annotated[
        str, Meta(description="Name of a bundle in the server's catalogue (default: the first bundle).")
    ] = ""
    store: Annotated[str, Meta(description="Directory of downloaded models and learned state.")] = msgspec.field(
        default_factory=default_store
    )
    device: Annotated[
        str, Meta(description="Name of this device (default: the user of the broker's URL, or the host's name).")
    ] = ""
    password_file: Annotated[str, Meta(description="File with the password for the broker.")] = ""
    ca: Annotated[str, Meta(description="File with the CA certificate that verifies the broker, for mqtts.")] = ""
    trusted_root: Annotated[
        str, Meta(description="File with a root of trust; models that its keys have not signed are refused.")
    ] = ""
    levels: Annotated[
        tuple[LevelFlag, ...], Meta(description="Cascade levels that may answer, separated by commas.")
    ] = LEVELS
    base: Annotated[
        str, Meta(description="Name of the model that serves as base model (default: the bundle's base model).")
    ] = ""
    region: Annotated[
        str,
        Meta(description="Part of the picture to classify: left,top,width,height, each 0 to 1 (default: all of it)."),
    ] = ""
    max_disagreement: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="Risk budget of a classifier: largest mean share of all answers that disagree with the full "
            "model, 0 to 1. With 0.02, 98 of 100 answers are the full model's label of that frame or of most frames "
            "around it.",
        ),
    ] = MAX_DISAGREEMENT
    max_object_error: Annotated[
        float,
        Meta(
            gt=0,
            lt=1,
            description="Risk budget of a detector: largest mean of 1 - F1 of a frame's objects against the full "
            "model's, 0 to 1.",
        ),
    ] = MAX_OBJECT_ERROR
    audit_share: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Share of hits that the full model audits, 0 to 1; the share rises after an alarm. "
            "With 0, the agreement with the full model is not measured.",
        ),
    ] = MIN_AUDIT_RATE
    mode: Annotated[
        ModeFlag,
        Meta(
            description=f"Mode of requests to the cloud: {', '.join(MODES)} (auto is wait for a classifier, async for "
            "a detector)."
        ),
    ] = "auto"
    deadline_ms: Annotated[
        int, Meta(ge=1, le=60_000, description="Longest wait of a frame for the cloud, milliseconds.")
    ] = 250
    early_exits: Annotated[
        ExitFlag,
        Meta(description="Early exits of the full model on this device, if the bundle has them: gati, freeze or off."),
    ] = "gati"
    memory_budget: Annotated[str, Meta(description="Largest resident memory of the process, as in 150MB.")] = ""
    provider: Annotated[Provider, Meta(description="Hardware that runs models: auto, cpu, cuda or tensorrt.")] = "auto"
    threads: Annotated[
        int, Meta(ge=0, le=64, description="Threads of a model run; 0: the faster of one and all processors.")
    ] = 0
    slowdown: Annotated[
        float, Meta(ge=1, le=1000, description="Factor by which model runs are slowed down, to emulate a small device.")
    ] = 1.0
    fps: Annotated[
        Rate | None,
        Meta(
            description="Frame rate of a file and highest rate of a camera, frames per second "
            "(default: the source's own)."
        ),
    ] = None
    frames: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Number of frames to stop after (default: all).")
    ] = None
    frozen: Annotated[
        OnFrozen,
        Meta(
            description=f"Reaction to a camera that repeats one picture for {FROZEN_S:.0f} s: {', '.join(ON_FROZEN)} "
            "(log a warning, or open the camera again)."
        ),
    ] = "say"
    metrics: Annotated[
        str, Meta(description="[host:]port of the HTTP endpoint with /metrics for Prometheus and /health.")
    ] = ""
    record: Annotated[str, Meta(description="New directory to record the frames in, as a stream.")] = ""
    decision_log: Annotated[
        str, Meta(description="File to log every decision in, for 'edge-agent explain' and 'simulator replay'.")
    ] = ""
    output: Annotated[str, Meta(description="File to append one JSON line per frame to; - is standard output.")] = ""
    output_max: Annotated[
        str, Meta(description="Largest size of the output file, as in 100MB; a full file is renamed to FILE.1.")
    ] = ""
    summary: Annotated[str, Meta(description="File to write the summary of the run to, as JSON.")] = ""
    preview: Annotated[str, Meta(description="[host:]port of the web page with frames and answers.")] = ""
    save: Annotated[str, Meta(description="File to write a video with drawn answers to: .mp4 or .avi.")] = ""
    misses: Annotated[str, Meta(description="Directory to save the frames in that no local level could answer.")] = ""
    misses_budget: Annotated[
        str, Meta(description="Largest size of the directory of misses; the oldest frames are deleted first.")
    ] = "100MB"
    outbox: Annotated[
        str,
        Meta(
            description="Largest size of the pictures that are stored while there is no server and sent to it later, "
            "as in 50MB; 0: none."
        ),
    ] = "0"
    results: Annotated[bool, Meta(description="Whether changed answers are published over MQTT.")] = False
    stats: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="Time between two messages with this device's figures for the fleet page, seconds; 0: none.",
        ),
    ] = 60.0
    home_assistant: Annotated[
        bool, Meta(description="Whether cameras are announced to Home Assistant by MQTT discovery.")
    ] = False
    discovery_prefix: Annotated[str, Meta(description="Prefix of Home Assistant's discovery topics.")] = "homeassistant"
    zone: tuple[Zone, ...] = ()
    camera: tuple[CameraTable, ...] = ()

    def __post_init__(self) -> None:
        if not self.device:
            msgspec.structs.force_setattr(self, "device", default_device(self.broker))

    @property
    def name(self) -> str:
        """Name of the camera with these settings; empty for a device with one camera."""
        return self.camera[0].name if self.camera else ""

    @property
    def zone_name(self) -> str:
        """Name of the zone of a classifier with these settings (``each_zone``); empty for all others."""
        return self.zone[0].name if self.zone and self.region else ""

    @property
    def title(self) -> str:
        """Name of the camera and of the zone with these settings, as in ``yard/gate``; empty without any."""
        return "/".join(filter(None, (self.name, self.zone_name)))

    def each_zone(self) -> tuple[Settings, ...]:
        """The settings of a classifier for each zone: the region is the bounding box of the zone.

        Each zone has a decision log of its own, with the name of the zone before the suffix.
        """
        found = []
        for zone in self.zone:
            log = Path(self.decision_log)
            own = str(log.with_name(f"{log.stem}-{zone.name}{log.suffix}")) if self.decision_log else ""
            found.append(msgspec.structs.replace(self, region=region_text(zone.region), zone=(zone,), decision_log=own))
        return tuple(found)

    def each(self) -> tuple[Settings, ...]:
        """The settings of each camera. Raises ``ValueError`` for invalid ``[[camera]]`` tables."""
        if not self.camera:
            return (self,)
        for name in ("source", "record", "decision_log", "save", "zone"):
            if getattr(self, name):
                raise ValueError(f"there are [[camera]] tables: give {name} in them, not for all cameras at once")
        if len(pipes := [own.name for own in self.camera if own.source.startswith("pipe:")]) > 1:
            raise ValueError(f"cameras {' and '.join(pipes)} both read standard input; only one can")
        names = [own.name for own in self.camera]
        for name in names:
            if not NAME.fullmatch(name):
                raise ValueError(f"camera {name[:80]!r}: a name is letters, digits, '.', '_', '-', 64 at most")
            if names.count(name) > 1:
                raise ValueError(f"two cameras are called {name}; names must be unique")
        return tuple(
            msgspec.structs.replace(
                self,
                source=own.source,
                region=own.region or self.region,
                fps=own.fps or self.fps,
                record=own.record,
                decision_log=own.decision_log,
                save=own.save,
                zone=own.zone,
                camera=(own,),
            )
            for own in self.camera
        )

    def validate(self) -> tuple[Settings, ...]:
        """Check values that their types do not check; returns ``each()``. Raises ``ValueError``."""
        cameras = self.each()
        for own in cameras:
            if own.region:
                parse_region(own.region)
            try:
                check_zones(own.zone)
                if own.region and own.zone:
                    raise ValueError("there are a region and zones; a zone is a region with a name: give one of both")
            except ValueError as error:
                raise ValueError(f"camera {own.name}: {error}" if own.name else str(error)) from None
        for endpoint in filter(None, (self.metrics, self.preview)):
            config.endpoint(endpoint)
        for name in ("memory_budget", "misses_budget", "output_max", "outbox"):
            if text := getattr(self, name):
                try:
                    parse_size(text)
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        return cameras

    def mode_for(self, task: Task) -> Mode:
        """The mode for a bundle of this task."""
        if self.mode != "auto":
            return self.mode
        return "async" if task == "detection" else "wait"

    def budget_for(self, task: Task) -> tuple[str, float]:
        """The risk budget for a bundle of this task, and its flag."""
        if task == "detection":
            return "--max-object-error", self.max_object_error
        return "--max-disagreement", self.max_disagreement

    @property
    def explains(self) -> bool:
        """Whether an output explains decisions: the decision log or the preview."""
        return bool(self.decision_log or self.preview)

    @property
    def outbox_bytes(self) -> int:
        """Bound of the outbox, bytes; 0: none."""
        return parse_size(self.outbox or "0")

    @property
    def asks_server(self) -> bool:
        """Whether misses may be sent to a server."""
        return bool(self.broker) and "cloud" in self.levels and self.mode != "offline"

    @property
    def local(self) -> bool:
        """Whether any model runs on the device."""
        return "base" in self.levels or "submodels" in self.levels


def parse_size(text: str) -> int:
    """Parse a size such as ``150MB``, ``64MiB`` or ``2000000``, in bytes. Raises ``ValueError``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?)b?\s*", text.lower())
    if not match or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no size; write 150MB or 64MiB")
    return int(min(float(match[1]), 1e12) * _UNITS[match[2]])
