"""A model loader with an updater, and a site with a store and a server."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from cachenet.edge_agent.updates import downloader, updater
from cachenet.edge_agent.updates import loader as module
from cachenet.edge_agent.updates.downloader import Downloader
from cachenet.edge_agent.updates.loader import LoadedModel, ModelLoader, Probe
from cachenet.edge_agent.updates.store import Store
from cachenet.edge_agent.updates.updater import Updater
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, Manifest
from cachenet.shared.transport.mqtt import Message, MqttConnection
from tests.bundles import tiny_bundle
from tests.edge_agent.links import BlobServer, FakeLink

_BOUND_S = 30.0


@pytest.fixture(autouse=True)
def small_chunks_and_short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloader, "CHUNK_BYTES", 600)
    monkeypatch.setattr(downloader, "_CHUNK_TIMEOUT_S", 0.1)
    monkeypatch.setattr(module, "RETRY_S", (0.05, 0.1))
    monkeypatch.setattr(updater, "RETRY_S", (0.05, 0.1))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


def no_probe(_manifest: Manifest, _names: Iterable[str], _files: dict[str, Path]) -> None:
    """Every model passes."""


class LoaderWithUpdater(ModelLoader):
    """A loader and its updater that requests the first model of every target."""

    def __init__(
        self,
        store: Store | None,
        link: MqttConnection | None,
        base: str | None,
        root: str = "",
        probe: Probe = no_probe,
        threads: int = 1,
    ) -> None:
        self.ready: queue.SimpleQueue[LoadedModel] = queue.SimpleQueue()
        self.downloaders = [Downloader(store, link, "cam") for _ in range(2)]
        super().__init__(store, self.downloaders[0], "cpu", threads, base, probe=probe)
        self.updater: Updater | None = None
        if store is not None:
            self.updater = Updater(store, self, self.downloaders[1], probe, root, self._required_models)

    def _required_models(self, manifest: Manifest) -> set[str]:
        return set() if self._base is None else {self._first_model(manifest)}

    @property
    def errors(self) -> str:
        """Errors of loader and updater."""
        return self.error + (self.updater.error if self.updater is not None else "")

    def announce(self, data: bytes) -> None:
        assert self.updater is not None
        self.updater.announce(data)

    def set_target(self, manifest: Manifest | None, version: str) -> None:
        super().set_target(manifest, version)
        if self._base is not None and manifest is not None:
            self.request_first(self.ready)

    def request(self, model: str, ready: queue.SimpleQueue[LoadedModel] | None = None) -> None:
        super().request(model, ready or self.ready)

    def receive(self, message: Message, sha256: str) -> None:
        for one in self.downloaders:
            one.receive(message, sha256)

    @property
    def bytes_down(self) -> int:
        return sum(one.bytes_down for one in self.downloaders)

    def start(self) -> None:
        super().start()
        if self.updater is not None:
            self.updater.start()

    def stop(self) -> None:
        if self.updater is not None:
            self.updater.stop()
        super().stop()


class Site:
    """A store, a server of ``bundle`` and loaders that use both."""

    def __init__(self, directory: Path, bundle: Bundle) -> None:
        self.bundle = bundle
        self.store = Store(directory)
        self.server = BlobServer(bundle)
        self.link = FakeLink(self.server)
        self._loaders: list[ModelLoader] = []

    def loader(
        self, base: str | None = "", root: str = "", probe: Probe = no_probe, restore: bool = False
    ) -> LoaderWithUpdater:
        loader = LoaderWithUpdater(self.store, cast(MqttConnection, self.link), base, root, probe)
        self.server.deliver = loader.receive
        if restore and loader.updater is not None:
            loader.updater.restore()
        loader.start()
        self._loaders.append(loader)
        return loader

    def size(self, name: str) -> int:
        return self.bundle.manifest.models[name].bytes

    def close(self) -> None:
        for loader in self._loaders:
            loader.stop()


@pytest.fixture
def site(tmp_path: Path, bundle: Bundle) -> Iterator[Site]:
    site = Site(tmp_path / "store", bundle)
    yield site
    site.close()


def ready(loader: LoaderWithUpdater) -> LoadedModel:
    loaded = loader.ready.get(timeout=_BOUND_S)
    loader.on_answer(loaded.version)
    return loaded


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + _BOUND_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def edited(directory: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    manifest = msgspec.json.decode((directory / MANIFEST).read_bytes())
    change(manifest)
    data = msgspec.json.encode(manifest)
    (directory / MANIFEST).write_bytes(data)
    return data
