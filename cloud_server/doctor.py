"""The command ``cloud-server doctor``: whether a server with these settings will work here, before it runs."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cachenet.cloud_server.settings import EMBEDDED, Settings
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle, BundleError, Manifest
from cachenet.shared.command import diagnostics
from cachenet.shared.command.diagnostics import Finding
from cachenet.shared.command.extras import how_to_install
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import crop, preprocessor
from cachenet.shared.transport.mqtt import MqttConnection, MqttError, address, password

ABOUT = """Find out whether 'cloud-server run' with the same settings will work here, and what to do if not.

Looks at clock, broker, TLS, password, bundle, disk and the full model, and at how many questions a second are to be
expected. Ends with 1 if there is a problem.

Example: cloud-server doctor --bundle cifar10

Example: cloud-server doctor --config /etc/cachenet/server.toml --bundle cifar10 --json
"""

_PATIENCE_S = 5.0
#: What updates of a bundle may need, as a multiple of the bundle.
_UPDATES = 3
_TRIES = 5


def findings(settings: Settings) -> Iterator[Finding]:
    """All there is to say, as it is found out."""
    yield diagnostics.clock()
    yield from _own(settings) if settings.broker == EMBEDDED else _broker(settings)
    if not settings.bundle:
        yield Finding("bundle", "problem", "nothing to serve: give --bundle (such as cifar10)")
        return
    try:
        bundle = Bundle(zoo.find(settings.bundle))
    except BundleError as error:
        yield Finding("bundle", "problem", str(error))
        return
    manifest = bundle.manifest
    signed = "signed" if bundle.signature else "not signed"
    yield Finding("bundle", "ok", f"{manifest.name}, {len(manifest.labels)} labels, {signed}")
    if settings.specialise:
        yield _room(settings, manifest)
    name = manifest.only("full")
    finding, session = diagnostics.model(name, bundle.path(name), manifest, settings.provider, settings.threads)
    yield finding
    if session is not None:
        yield _pace(manifest, name, session, session.batch or settings.max_batch)


def _own(settings: Settings) -> Iterator[Finding]:
    """Whether the embedded broker is installed and could have its port."""
    if find_spec("iotcore") is None:
        yield Finding("broker", "problem", f"the embedded broker needs iotcore; {how_to_install('cloud')}")
        return
    try:
        with socket.create_server((settings.listen, settings.port)):
            yield Finding("broker", "ok", f"embedded, and {settings.listen}:{settings.port} is free")
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        yield Finding(
            "broker", "problem", f"{settings.listen}:{settings.port}: {why}; choose another with --port or --listen"
        )


def _broker(settings: Settings) -> Iterator[Finding]:
    try:
        where = address(settings.broker, password(settings.password_file), Path(settings.ca) if settings.ca else None)
        link = MqttConnection(where, f"doctor-{secrets.token_hex(4)}", [], lambda _: None)
    except MqttError as error:
        yield Finding("broker", "problem", str(error))
        return
    for finding in diagnostics.reach(where):
        yield finding
        if finding.grade == "problem":
            return
    link.start()
    try:
        trouble = link.settle(_PATIENCE_S)
    finally:
        link.stop()
    if trouble:
        yield Finding("password", "problem", trouble.removesuffix("; trying again"))
    else:
        yield Finding("password", "ok", f"the broker takes {where.user or 'anybody'}")


def _room(settings: Settings, manifest: Manifest) -> Finding:
    """Whether updates can be kept."""
    place = Path(settings.work)
    there = next(above for above in (place, *place.absolute().parents) if above.exists())
    if not os.access(there, os.W_OK):
        return Finding("disk", "problem", f"{there} cannot be written to; choose another with --work")
    need = _UPDATES * sum(model.bytes for model in manifest.models.values())
    return diagnostics.room("disk", there, need, "free some, or choose another with --work")


def _pace(manifest: Manifest, name: str, session: Session, batch: int) -> Finding:
    """How many questions a second the full model could answer if they came in whole batches."""
    spec = manifest.models[name].input
    tensors = np.repeat(preprocessor(spec)(crop(diagnostics.golden(), spec)), batch, axis=0)
    took = []
    for _ in range(_TRIES):
        begun = time.perf_counter()
        session.run(tensors)
        took.append(time.perf_counter() - begun)
    seconds = sorted(took)[_TRIES // 2]
    said = f"{name} takes {1000 * seconds:.0f} ms for {batch} pictures: up to {batch / seconds:.0f} questions a second"
    return Finding("pace", "ok", said)
