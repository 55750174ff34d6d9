"""Settings of ``cloud-server run``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import ExitFlag
from cachenet.shared.command.threads import default_threads
from cachenet.shared.inference.engine import Provider

EMBEDDED = "embedded"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of ``cloud-server run``; empty text is an unset setting. No setting holds a password."""

    #: Settings without a flag.
    FILE_ONLY: ClassVar = ("queue", "max_batch", "device_share", "early_exits", "canary_share", "canary_devices")
    #: Settings of earlier versions and their successors.
    REPLACED: ClassVar = {
        "layer_caches": "use {early_exits}",
        "specialise": "use {fine_tune}",
        "data": "fine-tuning uses frames of devices only; leave it out",
        "held_out": "fine-tuning uses frames of devices only; leave it out",
    }
    #: Other spellings of flags, without dashes.
    ALIASES: ClassVar = {"specialise": "fine-tune"}

    bundle: Annotated[str, Meta(description=f"Bundle to serve: {zoo.HELP}.")] = ""
    canary: Annotated[
        str, Meta(description="Newer version of the bundle, a directory, to roll out to a share of the devices first.")
    ] = ""
    canary_share: Annotated[
        float, Meta(gt=0, le=1, description="Share of the devices that take the newer version first.")
    ] = 0.1
    canary_devices: Annotated[
        str, Meta(description="Pattern of the names of devices that may take it first, as in cam-1*.")
    ] = "*"
    broker: Annotated[
        str,
        Meta(
            description="Broker to use: embedded, or the address mqtt[s]://[user@]host[:port]; "
            "commas separate several brokers."
        ),
    ] = EMBEDDED
    listen: Annotated[str, Meta(description="IPv4 address that the embedded broker listens on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65_535, description="Port that the embedded broker listens on.")] = 1883
    password_file: Annotated[
        str, Meta(description="File with the broker's password (default: the variable CACHENET_PASSWORD).")
    ] = ""
    ca: Annotated[
        str, Meta(description="File with the CA certificate that verifies the broker's certificate, for mqtts.")
    ] = ""
    executor: Annotated[
        Literal["local", "v2"],
        Meta(description="Place where the full model runs: local (in the server), or v2 (on the server at --v2-url)."),
    ] = "local"
    v2_url: Annotated[
        str,
        Meta(description="Address http[s]://host[:port] of a V2 server (Open Inference Protocol)."),
    ] = ""
    provider: Annotated[
        Provider, Meta(description="Hardware that runs the full model: auto, cpu, cuda or tensorrt.")
    ] = "auto"
    threads: Annotated[
        int,
        Meta(ge=1, le=64, description="Threads of the full model (default: OMP_NUM_THREADS, or one per processor)."),
    ] = msgspec.field(default_factory=default_threads)
    queue: Annotated[int, Meta(ge=1, le=1024, description="Largest number of requests in the queue.")] = 64
    max_batch: Annotated[
        int,
        Meta(
            ge=1, le=256, description="Largest number of requests in one batch; with v2, on their way to that server."
        ),
    ] = 16
    device_share: Annotated[
        float,
        Meta(gt=0, le=1, description="Share of the server's time that a device may take while other devices wait."),
    ] = 0.25
    early_exits: Annotated[
        ExitFlag, Meta(description="Kind of early exits in the full model: freeze, gati or off.")
    ] = "off"
    metrics: Annotated[str, Meta(description="Address [host:]port that serves /metrics and /health.")] = ""
    fine_tune: Annotated[
        bool,
        Meta(description="Whether the server trains submodels on what devices send; needs torch."),
    ] = False
    key: Annotated[
        str, Meta(description="File with the server's key, for a bundle that 'model-builder sign' has signed.")
    ] = ""
    work: Annotated[str, Meta(description="Directory that keeps updated bundles.")] = "updates"
