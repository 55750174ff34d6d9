"""The command ``edge-agent doctor``: checks whether ``edge-agent run`` will work with the same settings."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from cachenet.edge_agent.doctor.connectivity import check_connectivity
from cachenet.edge_agent.pipeline import pipeline_for
from cachenet.edge_agent.preparation import NO_SERVER, trusted_root
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import SourceError, open_source
from cachenet.edge_agent.updates.store import Store, StoreError
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle, Manifest, parse
from cachenet.shared.cascade.detect.types import LocalDetector
from cachenet.shared.command import diagnostics
from cachenet.shared.command.diagnostics import Finding
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Picture

ABOUT = """Check whether 'edge-agent run' will work with the same settings, and what to do if not.

The command checks clock, broker, TLS, password, server, camera, disk and models, and measures the frame rate that the
device can reach. An agent that is running on this device loses its connection for a moment. The exit code is 1 after a
problem.

Example: edge-agent doctor camera:0 --broker mqtt://server.local

Example: edge-agent doctor --config /etc/cachenet/agent.toml --json
"""

#: Longest wait for the first frame of a camera, seconds.
_FIRST_FRAME_TIMEOUT_S = 15.0
#: Free space that a store needs if no manifest is known, and an output, bytes.
_MIN_FREE_BYTES = 64 << 20
#: Runs of the base model to measure its time.
_RUNS = 30

#: Returns the path of the file with a digest; None if the device has no such file.
Finder = Callable[[str], Path | None]


def findings(settings: Settings) -> Iterator[Finding]:
    """All findings, each as soon as it is known."""
    yield diagnostics.clock()
    try:
        yield from _check(settings)
    except StoreError as error:
        yield Finding("disk", "problem", str(error))


def _check(settings: Settings) -> Iterator[Finding]:
    try:
        cameras = settings.validate()
    except ValueError as error:
        yield Finding("settings", "problem", str(error))
        return
    manifest, find, store = yield from _local_models(settings)
    if settings.broker:
        manifest = (yield from check_connectivity(settings, manifest)) or manifest
    elif not settings.bundle:
        yield Finding(
            "broker", "problem", "none, and no bundle: give --broker mqtt://host, or --bundle (such as cifar10)"
        )
    if store is not None:
        yield _room(settings, manifest, find)
    if size := settings.outbox_bytes:
        yield _outbox(settings, size)
    yield from _outputs(settings, "output", "summary", "misses")
    pictures = []
    for own in cameras:
        yield from _outputs(own, "decision_log", "record", "save")
        pictures.append((yield from _camera(own)))
    if manifest is not None:
        yield from _models(settings, manifest, find, pictures[0])


def _local_models(settings: Settings) -> Generator[Finding, None, tuple[Manifest | None, Finder, Store | None]]:
    """Check bundle and store; returns the manifest, the finder of its files, and the store unless there is a bundle."""
    try:
        if settings.bundle:
            bundle = Bundle(zoo.find(settings.bundle))
            if (root := trusted_root(settings)) is not None:
                root.verify_bundle(bundle)
            paths = {model.sha256: bundle.path(name) for name, model in bundle.manifest.models.items()}
            return bundle.manifest, paths.get, None
        store = Store(Path(settings.store))
    except (UserError, ValueError) as error:
        yield Finding("bundle" if settings.bundle else "disk", "problem", str(error))
        return None, lambda _: None, None
    manifest = parse(data) if (data := store.current(settings.catalogue)) is not None else None
    return manifest, store.path, store


def _room(settings: Settings, manifest: Manifest | None, find: Finder) -> Finding:
    """Check that the models that the device would download fit into its store."""
    need = _MIN_FREE_BYTES
    if manifest is not None:
        needed = [one for one in manifest.models.values() if one.role != "full" or "full" in settings.levels]
        need = sum(one.bytes for one in needed if find(one.sha256) is None)
    return diagnostics.room("disk", Path(settings.store), need, "free some, or choose another with --store")


def _outbox(settings: Settings, size: int) -> Finding:
    """Check that there is a server to send to, and space for the outbox."""
    if not settings.asks_server:
        return Finding("outbox", "problem", NO_SERVER)
    directory = Path(settings.store)
    while not directory.exists():
        directory = directory.parent
    finding = diagnostics.room("outbox", directory, size, "free some, or lower outbox")
    text = f"up to {size / 1e6:g} MB of pictures are stored in {settings.store} while there is no server"
    return finding if finding.grade == "problem" else Finding("outbox", "ok", f"{text}; {finding.says}")


def _outputs(settings: Settings, *names: str) -> Iterator[Finding]:
    """Check that the outputs are writable and that their disks have free space."""
    for name in names:
        target = getattr(settings, name)
        if not target or target == "-":
            continue
        directory, advice = Path(target).absolute().parent, f"choose another place for {name}"
        if not os.access(directory, os.W_OK):
            yield Finding(name, "problem", f"{directory} cannot be written to; {advice}")
        else:
            yield diagnostics.room(name, directory, _MIN_FREE_BYTES, f"free some, or {advice}")


def _camera(settings: Settings) -> Generator[Finding, None, Picture | None]:
    """Check that the source of a camera gives a frame; returns that frame."""
    prefix = f"{settings.name}: " if settings.name else ""
    if not settings.source:
        yield Finding("source", "problem", "none; give one, as in: edge-agent doctor camera:0")
        return None
    try:
        source = open_source(settings.source, None)
    except SourceError as error:
        yield Finding("source", "problem", f"{prefix}{error}")
        return None
    first: queue.SimpleQueue[Picture | None] = queue.SimpleQueue()
    begun = time.monotonic()
    # In another thread, because a camera may hang.
    threading.Thread(target=lambda: first.put(next((shot.picture for shot in source), None)), daemon=True).start()
    try:
        picture = first.get(timeout=_FIRST_FRAME_TIMEOUT_S)
    except queue.Empty:
        picture = None
    seconds = time.monotonic() - begun
    source.close()
    if picture is None:
        reason = source.error or "is it in use, or are its files broken?"
        yield Finding("source", "problem", f"{prefix}it opens and shows nothing: {reason}")
        return None
    height, width = picture.shape[:2]
    yield Finding("source", "ok", f"{prefix}{width}x{height} after {seconds:.1f} s")
    return picture


def _models(settings: Settings, manifest: Manifest, find: Finder, picture: Picture | None) -> Iterator[Finding]:
    """Check that the models on the device run, and measure the base model on a frame of the camera."""
    names = [settings.base or manifest.only("base")] if settings.local else []
    names += [manifest.only("full")] if "full" in settings.levels or settings.bundle else []
    for name in names:
        if name not in manifest.models:
            yield Finding("model", "problem", f"base {name}: the bundle has {', '.join(manifest.models)}")
            continue
        path = find(manifest.models[name].sha256)
        if path is None:
            yield Finding("model", "ok", f"{name} is not here yet; it is fetched from the server")
            continue
        finding, session = diagnostics.model(name, path, manifest, settings.provider, settings.threads or 1)
        yield finding
        if session is not None and name == names[0] and settings.local:
            yield _pace(settings, manifest, name, session, picture if picture is not None else diagnostics.golden())


def _pace(settings: Settings, manifest: Manifest, name: str, session: Session, picture: Picture) -> Finding:
    """Measure the frame rate that the device reaches with local answers."""
    pipeline, model = pipeline_for(settings, manifest), manifest.models[name]
    runnable = session if model.decoder is None else Detector(session.run_all, model.input, model.decoder)
    local = pipeline.local_model(name, runnable, 0, 0.0, True, lambda _: None)
    run = local.detect if isinstance(local, LocalDetector) else local.score
    times = []
    for index in range(_RUNS):
        begun = time.perf_counter()
        run(pipeline.frame(index, picture).view)
        times.append(time.perf_counter() - begun)
    seconds = sorted(times)[_RUNS // 2]
    rate = f"{name} takes {1000 * seconds:.1f} ms a frame: up to {1 / seconds:.0f} frames a second"
    return Finding("pace", "ok", f"{rate} without requests to the cloud")
