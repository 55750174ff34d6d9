"""An agent in the test's own process, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import numpy as np

from edge_agent.agent import Agent
from edge_agent.camera import Camera
from edge_agent.settings import LevelFlag, Settings
from edge_agent.source import Shot
from edge_agent.store import Store
from shared.bundle import Bundle

_BOUND_S = 10.0

EVERY: tuple[LevelFlag, ...] = ("frames", "submodels", "base", "full", "cloud")


def shot(brightness: int = 0) -> Shot:
    return Shot(np.full((48, 64, 3), brightness, np.uint8))


class Pictures:
    """A source of so many pictures, each unlike the others."""

    dropped = broken = losses = 0
    trouble = ""

    def __init__(self, count: int) -> None:
        self.closed = False
        self._count = count

    def __iter__(self) -> Iterator[Shot]:
        for index in range(self._count):
            yield shot(index * 20 % 256)

    def close(self) -> None:
        self.closed = True


def stored(store: Store, bundle: Bundle) -> Store:
    """Put all models of ``bundle`` into ``store`` as if they had been pulled."""
    for name, model in bundle.manifest.models.items():
        store.append(model.sha256, bundle.path(name).read_bytes())
        store.finish(model.sha256)
    return store


@contextmanager
def running(settings: Settings, store: Store | None = None, bundle: Bundle | None = None) -> Iterator[Camera]:
    """The only camera of an agent, with something to answer with."""
    (camera,) = Agent(settings, [Pictures(0)], None, store, bundle).cameras
    camera.keeper.start()
    try:
        camera.await_deployment()
        yield camera
    finally:
        camera.keeper.stop()


def tend_until(camera: Camera, true: Callable[[], object]) -> None:
    deadline = monotonic() + _BOUND_S
    while not true():
        assert monotonic() < deadline
        camera.deployment.tend()
        sleep(0.005)
