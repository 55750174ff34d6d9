"""An agent in the test's own process, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import cast

import numpy as np

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera import Camera
from cachenet.edge_agent.settings import LevelFlag, Settings
from cachenet.edge_agent.sources import Source, SourceFrame
from cachenet.edge_agent.updates.store import Store
from cachenet.edge_agent.updates.updater import Updater
from cachenet.shared.bundle.manifest import Bundle, digest, parse
from cachenet.shared.transport.mqtt import MqttConnection
from tests.edge_agent.links import ServedLink

_BOUND_S = 30.0

EVERY: tuple[LevelFlag, ...] = ("frames", "submodels", "base", "full", "cloud")


def shot(brightness: int = 0) -> SourceFrame:
    return SourceFrame(np.full((48, 64, 3), brightness, np.uint8))


class Pictures:
    """A source of ``count`` pictures, all different or all the ``same``."""

    dropped = broken = losses = 0
    error = ""
    fps: float | None = None

    def __init__(self, count: int, same: bool = False) -> None:
        self.closed = False
        self._count, self._same = count, same

    def __iter__(self) -> Iterator[SourceFrame]:
        for index in range(self._count):
            yield shot(0 if self._same else index * 20 % 256)

    def close(self) -> None:
        self.closed = True


def install_files(store: Store, bundle: Bundle) -> Store:
    """Put all files of ``bundle`` into ``store`` as if they had been pulled."""
    for file, sha256 in bundle.manifest.files().items():
        if not store.has_file(sha256):
            store.append(sha256, (bundle.directory / file).read_bytes())
            store.finish(sha256)
    return store


def install_current(store: Store, data: bytes) -> Store:
    """Make a manifest the current set of ``store``, as an update does that was committed."""
    manifest = parse(data)
    store.stage(data, manifest)
    store.promote(manifest.name, digest(data))
    store.commit(manifest.name)
    return store


@contextmanager
def running(settings: Settings, store: Store | None = None, bundle: Bundle | None = None) -> Iterator[Camera]:
    """The only camera of an agent, with something to answer with."""
    agent = Agent(settings, [Pictures(0)], (), store, bundle)
    (camera,) = agent.cameras
    camera.loader.start()
    if agent.updater is not None:
        agent.updater.start()
    try:
        camera.wait_for_bundle()
        yield camera
    finally:
        agent.stopped.set()
        if agent.updater is not None:
            agent.updater.stop()
        camera.loader.stop()


def served(settings: Settings, source: Source, bundle: Bundle, label: Callable[[], int]) -> Agent:
    """An agent whose server answers every question with the label that ``label`` gives."""
    agent = Agent(settings, [source], (), None, bundle)
    link = ServedLink(bundle, label)
    link.deliver = agent._receive
    agent.link = cast(MqttConnection, link)
    for camera in agent.cameras:
        camera._link, camera.uses_cloud, camera.active_bundle._uses_cloud = agent.link, True, True
    return agent


def announce(camera: Camera, data: bytes) -> None:
    """Have the catalogue offer a manifest."""
    updater = camera.loader.on_answer.__self__  # type: ignore[attr-defined]
    assert isinstance(updater, Updater)
    updater.announce(data)


def maintain_until(camera: Camera, true: Callable[[], object]) -> None:
    deadline = monotonic() + _BOUND_S
    while not true():
        assert monotonic() < deadline
        camera.active_bundle.maintain()
        sleep(0.005)
