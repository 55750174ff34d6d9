"""A keeper, one who wants models of it, and a site that has both a store and a server."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from edge_agent import keeper as module
from edge_agent import puller
from edge_agent.keeper import Keeper, Loaded
from edge_agent.store import Store
from shared.bundle import MANIFEST, Bundle
from shared.link import Link
from shared.signing import Key
from tests.bundles import tiny_bundle
from tests.edge_agent.links import BlobServer, FakeLink

_BOUND_S = 10.0


@pytest.fixture(autouse=True)
def small_pieces_and_little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puller, "PIECE", 600)
    monkeypatch.setattr(puller, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(module, "_RETRY_S", 0.05)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


class Customer(Keeper):
    """A keeper, and one who wants of it the first model of whatever is announced."""

    def __init__(self, *given: Any) -> None:
        self.ready: queue.SimpleQueue[Loaded] = queue.SimpleQueue()
        super().__init__(*given)

    def announce(self, data: bytes, signature: bytes = b"") -> None:
        before = self.version
        super().announce(data, signature)
        if self._base is not None and self.version != before:
            self.want_first(self.ready)

    def want(self, model: str) -> None:  # type: ignore[override]
        super().want(model, self.ready)


class Site:
    """A store, a server of ``bundle`` and keepers that use both."""

    def __init__(self, directory: Path, bundle: Bundle) -> None:
        self.bundle = bundle
        self.store = Store(directory)
        self.server = BlobServer(bundle)
        self.link = FakeLink(self.server)
        self._keepers: list[Keeper] = []

    def keeper(self, base: str | None = "", trusted: Key | None = None) -> Customer:
        keeper = Customer(self.store, cast(Link, self.link), "cam", "cpu", 1, base, trusted)
        self.server.deliver = keeper.receive
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


def ready(keeper: Customer) -> Loaded:
    return keeper.ready.get(timeout=_BOUND_S)


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
