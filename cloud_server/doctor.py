"""The command ``cloud-server doctor``: checks whether a server with these settings would work."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cachenet.cloud_server import v2_doctor
from cachenet.cloud_server.settings import EMBEDDED, Settings
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle, BundleError, Manifest
from cachenet.shared.command import diagnostics
from cachenet.shared.command.diagnostics import Finding
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.extras import how_to_install, require_signing
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import crop, preprocessor
from cachenet.shared.transport.broker import from_options
from cachenet.shared.transport.mqtt import Address, MqttConnection, MqttError

ABOUT = """Check whether 'cloud-server run' would work with the same settings, and say how to solve each problem.

It checks the clock, the broker, TLS, the password, the bundle, the disk and the full model, here or on the V2 server,
and estimates the requests per second. The exit code is 1 if there is a problem.

Example: cloud-server doctor --bundle cifar10

Example: cloud-server doctor --config /etc/cachenet/server.toml --bundle cifar10 --json
"""

#: Time to wait for the broker's answer to a login, seconds.
_LOGIN_TIMEOUT_S = 5.0
#: Disk space that updates of a bundle may need, as a multiple of the bundle's size.
_UPDATES = 3
#: Number of timed runs of the full model; the median counts.
_RUNS = 5


def findings(settings: Settings) -> Iterator[Finding]:
    """The findings, each as soon as its check is done."""
    yield diagnostics.clock()
    yield from _embedded_broker(settings) if settings.broker == EMBEDDED else _external_broker(settings)
    if not settings.bundle:
        yield Finding("bundle", "problem", "nothing to serve: give --bundle (such as cifar10)")
        return
    try:
        bundle = Bundle(zoo.find(settings.bundle))
    except BundleError as error:
        yield Finding("bundle", "problem", str(error))
        return
    manifest = bundle.manifest
    count = len(manifest.labels)
    signed = "signed" if bundle.signed else "not signed"
    yield Finding("bundle", "ok", f"{manifest.name}, {count} label{'s' * (count > 1)}, {signed}")
    if settings.key:
        yield _signatures(bundle, Path(settings.key))
    if settings.fine_tune:
        yield _disk(settings, manifest)
    if settings.executor == "v2":
        yield from v2_doctor.findings(settings.v2_url, bundle, settings.max_batch)
        return
    name = manifest.only("full")
    finding, session = diagnostics.model(name, bundle.path(name), manifest, settings.provider, settings.threads)
    yield finding
    if session is not None:
        detects = manifest.models[name].decoder is not None  # detectors run on one picture at a time
        yield _pace(manifest, name, session, 1 if detects else session.batch or settings.max_batch)


def _embedded_broker(settings: Settings) -> Iterator[Finding]:
    """Check that the embedded broker is installed and its port is free."""
    if find_spec("iotcore") is None:
        yield Finding("broker", "problem", f"the embedded broker needs iotcore; {how_to_install('cloud')}")
        return
    where = f"{settings.listen}:{settings.port}"
    try:
        with socket.create_server((settings.listen, settings.port)):
            yield Finding("broker", "ok", f"embedded, and {where} is free")
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        yield Finding("broker", "problem", f"{where}: {why}; choose another with --port or --listen")


def _external_broker(settings: Settings) -> Iterator[Finding]:
    """Check the address, TLS and the password of each other broker."""
    try:
        found = from_options(settings.broker, settings.password_file, settings.ca)
    except MqttError as error:
        yield Finding("broker", "problem", str(error))
        return
    for where in found:
        yield from diagnostics.at(where, _login(where)) if len(found) > 1 else _login(where)


def _login(where: Address) -> Generator[Finding, None, None]:
    """Check that a broker is there and accepts the server."""
    try:
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
        error_text = link.settle(_LOGIN_TIMEOUT_S)
    finally:
        link.stop()
    if error_text:
        yield Finding("password", "problem", error_text.removesuffix("; trying again"))
    else:
        yield Finding("password", "ok", f"the broker accepts {where.user or 'clients without a user'}")


def _signatures(bundle: Bundle, key: Path) -> Finding:
    try:
        require_signing()
        from cachenet.cloud_server.serving.signer import CatalogueSigner

        warning = CatalogueSigner(bundle, key).expiry_warning()
    except UserError as error:
        return Finding("signatures", "problem", str(error))
    return Finding("signatures", "warning", warning) if warning else Finding("signatures", "ok", "valid for 60 days")


def _disk(settings: Settings, manifest: Manifest) -> Finding:
    """Check that there is room for updates of the bundle."""
    work = Path(settings.work)
    existing = next(directory for directory in (work, *work.absolute().parents) if directory.exists())
    if not os.access(existing, os.W_OK):
        return Finding("disk", "problem", f"{existing} cannot be written to; choose another with --work")
    required = _UPDATES * sum(model.bytes for model in manifest.models.values())
    return diagnostics.room("disk", existing, required, "free some, or choose another with --work")


def _pace(manifest: Manifest, name: str, session: Session, batch: int) -> Finding:
    """Measure how many requests per second the full model answers in full batches."""
    spec = manifest.models[name].input
    tensors = np.repeat(preprocessor(spec)(crop(diagnostics.golden(), spec)), batch, axis=0)
    durations = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        session.run_all(tensors)
        durations.append(time.perf_counter() - started)
    seconds = sorted(durations)[_RUNS // 2]
    text = f"{name} takes {1000 * seconds:.0f} ms for {batch} pictures: up to {batch / seconds:.0f} requests a second"
    return Finding("pace", "ok", text)
