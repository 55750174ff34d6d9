"""A keeper, one who wants models of it, and a site that has both a store and a server."""

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
from cachenet.shared.bundle.trust import Key
from cachenet.shared.transport.mqtt import Message, MqttConnection
from tests.bundles import tiny_bundle
from tests.edge_agent.links import BlobServer, FakeLink

_BOUND_S = 30.0


@pytest.fixture(autouse=True)
def small_pieces_and_little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloader, "PIECE", 600)
    monkeypatch.setattr(downloader, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(module, "_RETRY_S", (0.05, 0.1))
    monkeypatch.setattr(updater, "_RETRY_S", (0.05, 0.1))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


def no_probe(_manifest: Manifest, _names: Iterable[str], _files: dict[str, Path]) -> None:
    """Every model passes."""


class Customer(ModelLoader):
    """A keeper and its updater, and one who wants the first model of whatever set is to be gone by. It answers a frame
    with each at once."""

    def __init__(
        self,
        store: Store | None,
        link: MqttConnection | None,
        base: str | None,
        trusted: Key | None = None,
        probe: Probe = no_probe,
        threads: int = 1,
    ) -> None:
        self.ready: queue.SimpleQueue[LoadedModel] = queue.SimpleQueue()
        super().__init__(store, Downloader(store, link, "cam"), "cpu", threads, base, probe=probe)
        self.updater: Updater | None = None
        if store is not None:
            self.pull = Downloader(store, link, "cam")
            self.updater = Updater(store, self, self.pull, probe, trusted, self._needs)

    def _needs(self, manifest: Manifest) -> set[str]:
        return set() if self._base is None else {self._first(manifest)}

    @property
    def troubles(self) -> str:
        """What keeper and updater say."""
        return self.trouble + (self.updater.trouble if self.updater is not None else "")

    def announce(self, data: bytes, signature: bytes = b"") -> None:
        assert self.updater is not None
        self.updater.announce(data, signature)

    def go_by(self, manifest: Manifest | None, version: str) -> None:
        super().go_by(manifest, version)
        if self._base is not None and manifest is not None:
            self.want_first(self.ready)

    def want(self, model: str) -> None:  # type: ignore[override]
        super().want(model, self.ready)

    def receive(self, message: Message, sha256: str) -> None:
        super().receive(message, sha256)
        self.pull.receive(message, sha256)

    @property
    def bytes_down(self) -> int:
        return super().bytes_down + self.pull.bytes_down

    def start(self) -> None:
        super().start()
        if self.updater is not None:
            self.updater.start()

    def stop(self) -> None:
        if self.updater is not None:
            self.updater.stop()
        super().stop()


class Site:
    """A store, a server of ``bundle`` and keepers that use both."""

    def __init__(self, directory: Path, bundle: Bundle) -> None:
        self.bundle = bundle
        self.store = Store(directory)
        self.server = BlobServer(bundle)
        self.link = FakeLink(self.server)
        self._keepers: list[ModelLoader] = []

    def keeper(
        self, base: str | None = "", trusted: Key | None = None, probe: Probe = no_probe, restore: bool = False
    ) -> Customer:
        keeper = Customer(self.store, cast(MqttConnection, self.link), base, trusted, probe)
        self.server.deliver = keeper.receive
        if restore and keeper.updater is not None:
            keeper.updater.restore()
        keeper.start()
        self._keepers.append(keeper)
        return keeper

    def size(self, name: str) -> int:
        return self.bundle.manifest.models[name].bytes

    def close(self) -> None:
        for keeper in self._keepers:
            keeper.stop()


@pytest.fixture
def site(tmp_path: Path, bundle: Bundle) -> Iterator[Site]:
    site = Site(tmp_path / "store", bundle)
    yield site
    site.close()


def ready(keeper: Customer) -> LoadedModel:
    loaded = keeper.ready.get(timeout=_BOUND_S)
    keeper.on_answer(loaded.version)
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
