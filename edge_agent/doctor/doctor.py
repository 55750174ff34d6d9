"""The command ``edge-agent doctor``: whether an agent with these settings will work here, before it runs."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from cachenet.edge_agent import settings as checks
from cachenet.edge_agent.doctor.connectivity import check_connectivity, is_signed
from cachenet.edge_agent.frame_inputs import FrameInputs, scorer
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import SourceError, open_source
from cachenet.edge_agent.updates.store import Store, StoreError
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle, BundleError, Manifest, parse
from cachenet.shared.command import config, diagnostics
from cachenet.shared.command.diagnostics import Finding
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Picture
from cachenet.shared.media.signature import sign

ABOUT = """Find out whether 'edge-agent run' with the same settings will work here, and what to do if not.

Looks at clock, broker, TLS, password, server, camera, disk and models, and at how many frames a second are to be
expected. An agent that runs on this device meanwhile loses its connection for a moment. Ends with 1 if there is a
problem.

Example: edge-agent doctor camera:0 --broker mqtt://server.local

Example: edge-agent doctor --config /etc/cachenet/agent.toml --json
"""

#: How long a camera may take until its first frame.
_FIRST_FRAME_S = 15.0
#: What a store should have room for where nobody knows yet what there will be.
_ROOM = 64 << 20
_TRIES = 30


#: Where a file with that digest is; None if it is not here.
Finder = Callable[[str], Path | None]


def findings(settings: Settings) -> Iterator[Finding]:
    """All there is to say, as it is found out."""
    yield diagnostics.clock()
    try:
        yield from _examined(settings)
    except StoreError as error:
        yield Finding("disk", "problem", str(error))


def _examined(settings: Settings) -> Iterator[Finding]:
    try:
        each = _checked(settings)
    except ValueError as error:
        yield Finding("settings", "problem", str(error))
        return
    manifest, find, store = yield from _kept(settings)
    if settings.broker:
        manifest = (yield from check_connectivity(settings, manifest)) or manifest
    elif not settings.bundle:
        yield Finding(
            "broker", "problem", "none, and no bundle: give --broker mqtt://host, or --bundle (such as cifar10)"
        )
    if store is not None:
        yield _room(settings, manifest, find)
    yield from _outputs(settings, "output", "summary", "misses")
    pictures = []
    for own in each:
        yield from _outputs(own, "flight", "record", "save")
        pictures.append((yield from _camera(own)))
    if manifest is not None:
        yield from _models(settings, manifest, find, pictures[0])


def _checked(settings: Settings) -> tuple[Settings, ...]:
    """The settings of every camera. Raises ``ValueError`` for what no run could begin with."""
    each = settings.each()
    for own in each:
        if own.region:
            checks.region(own.region)
    for text in filter(None, (settings.memory_budget, settings.output_max)):
        checks.parse_size(text)
    for served in filter(None, (settings.metrics, settings.preview)):
        config.endpoint(served)
    return each


def _kept(settings: Settings) -> Generator[Finding, None, tuple[Manifest | None, Finder, Store | None]]:
    """What is on this device: the bundle's manifest or the one kept last, its models, and the store if there is one."""
    try:
        if settings.bundle:
            bundle = Bundle(zoo.find(settings.bundle))
            if not is_signed(settings, bundle.data, bundle.signature):
                raise BundleError(f"{settings.bundle}: --trusted-key has not signed it")
            paths = {model.sha256: bundle.path(name) for name, model in bundle.manifest.models.items()}
            return bundle.manifest, paths.get, None
        store = Store(Path(settings.store))
    except (BundleError, StoreError, ValueError) as error:
        yield Finding("bundle" if settings.bundle else "disk", "problem", str(error))
        return None, lambda _: None, None
    manifest = parse(kept) if (kept := store.current(settings.catalogue)) is not None else None
    return manifest, store.path, store


def _room(settings: Settings, manifest: Manifest | None, find: Finder) -> Finding:
    """Whether what a device would fetch fits into its store."""
    need = _ROOM
    if manifest is not None:
        wanted = [one for one in manifest.models.values() if one.role != "full" or "full" in settings.levels]
        need = sum(one.bytes for one in wanted if find(one.sha256) is None)
    return diagnostics.room("disk", Path(settings.store), need, "free some, or choose another with --store")


def _outputs(settings: Settings, *names: str) -> Iterator[Finding]:
    """Whether what is to be written can be, and for a while."""
    for name in names:
        target = getattr(settings, name)
        if not target or target == "-":
            continue
        place = Path(target).absolute().parent
        if not os.access(place, os.W_OK):
            yield Finding(name, "problem", f"{place} cannot be written to; choose another place with --{name}")
        else:
            yield diagnostics.room(name, place, _ROOM, f"free some, or choose another place with --{name}")


def _camera(settings: Settings) -> Generator[Finding, None, Picture | None]:
    """Whether one camera's source opens and shows something; that picture."""
    whose = f"{settings.name}: " if settings.name else ""
    if not settings.source:
        yield Finding("source", "problem", "none; give one, as in: edge-agent doctor camera:0")
        return None
    try:
        source = open_source(settings.source, None)
    except SourceError as error:
        yield Finding("source", "problem", f"{whose}{error}")
        return None
    first: queue.SimpleQueue[Picture | None] = queue.SimpleQueue()
    begun = time.monotonic()
    # Elsewhere, because a camera that hangs would hang us.
    threading.Thread(target=lambda: first.put(next((shot.picture for shot in source), None)), daemon=True).start()
    try:
        picture = first.get(timeout=_FIRST_FRAME_S)
    except queue.Empty:
        picture = None
    took = time.monotonic() - begun
    source.close()
    if picture is None:
        why = source.error or "is it in use, or are its files broken?"
        yield Finding("source", "problem", f"{whose}it opens and shows nothing: {why}")
        return None
    height, width = picture.shape[:2]
    yield Finding("source", "ok", f"{whose}{width}x{height} after {took:.1f} s")
    return picture


def _models(settings: Settings, manifest: Manifest, find: Finder, picture: Picture | None) -> Iterator[Finding]:
    """Whether the models that are here run, and how fast the base model answers this camera."""
    names = [settings.base or manifest.only("base")] if settings.local else []
    names += [manifest.only("full")] if "full" in settings.levels or settings.bundle else []
    for name in names:
        if name not in manifest.models:
            yield Finding("model", "problem", f"--base {name}: the bundle has {', '.join(manifest.models)}")
            continue
        path = find(manifest.models[name].sha256)
        if path is None:
            yield Finding("model", "ok", f"{name} is not here yet; it is fetched from the server")
            continue
        finding, session = diagnostics.model(name, path, manifest, settings.provider, settings.threads or 1)
        yield finding
        if session is not None and name == names[0] and settings.local:
            yield _pace(manifest, name, session, picture if picture is not None else diagnostics.golden())


def _pace(manifest: Manifest, name: str, session: Session, picture: Picture) -> Finding:
    """How many frames a second the device can answer by itself."""
    score = scorer(name, session.run, manifest.models[name].input, len(manifest.labels))
    took = []
    for _ in range(_TRIES):
        begun = time.perf_counter()
        sign(picture)
        score(FrameInputs(picture))
        took.append(time.perf_counter() - begun)
    seconds = sorted(took)[_TRIES // 2]
    said = f"{name} takes {1000 * seconds:.1f} ms a frame: up to {1 / seconds:.0f} frames a second"
    return Finding("pace", "ok", f"{said} where nobody is asked")
