from __future__ import annotations

import gc
import queue
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from edge_agent import keeper as module
from edge_agent import puller
from edge_agent.keeper import Keeper, Loaded
from edge_agent.store import Store
from shared.bundle import MANIFEST, Bundle, BundleError, file_digest
from shared.engine import Logits, Provider, Session
from shared.link import Link
from shared.protocol import BlobRequest, Chunk, encode
from shared.signing import Key, Signer, generate
from tests.bundles import classifier, tiny_bundle
from tests.edge_agent.links import BlobServer, FakeLink, message

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


def test_a_catalogue_brings_the_base_model_whole_and_runnable(site: Site) -> None:
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    loaded = ready(keeper)
    assert (loaded.name, loaded.first, loaded.pulled, loaded.version) == ("base", True, True, site.bundle.version)
    assert loaded.cost >= site.size("base")
    assert loaded.session.run(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 10)
    assert site.store.recall() == site.bundle.data
    path = site.store.path(site.bundle.manifest.models["base"].sha256)
    assert path is not None
    assert path.read_bytes() == site.bundle.path("base").read_bytes()
    assert keeper.bytes_down == site.size("base")
    assert max(request.length for request in site.server.asked) <= 600


def test_a_transfer_goes_on_where_another_run_was_interrupted(site: Site) -> None:
    base = site.bundle.manifest.models["base"]
    site.store.append(base.sha256, site.bundle.path("base").read_bytes()[:1100])
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    assert ready(keeper).name == "base"
    assert min(request.offset for request in site.server.asked) == 1100


def test_lost_chunks_are_asked_for_again_and_strange_ones_passed_over(site: Site) -> None:
    seen: set[int] = set()

    def spoil(request: BlobRequest, chunk: Chunk) -> Chunk | None:
        if request.offset in seen:
            return chunk
        seen.add(request.offset)
        return None if request.offset < 700 else Chunk(chunk.offset + 1, chunk.total, chunk.data)

    site.server.spoil = spoil
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    assert ready(keeper).name == "base"


def test_without_a_connection_it_waits_and_goes_on_by_itself(site: Site) -> None:
    site.link.connected.clear()
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    with pytest.raises(queue.Empty):
        keeper.ready.get(timeout=0.3)
    assert site.server.asked == []
    site.link.connected.set()
    assert ready(keeper).name == "base"


def test_what_arrives_with_another_digest_is_fetched_afresh(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    bad = [True]

    def spoil(request: BlobRequest, chunk: Chunk) -> Chunk:
        if request.offset == 600 and bad.pop():
            bad.append(False)
            return Chunk(chunk.offset, chunk.total, bytes(len(chunk.data)))
        if not bad:
            bad.append(False)
        return chunk

    site.server.spoil = spoil
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    assert ready(keeper).name == "base"
    assert "another digest" in caplog.text
    assert [request.offset for request in site.server.asked].count(0) == 2


@pytest.mark.parametrize(
    "answer",
    [
        lambda chunk: Chunk(chunk.offset, 0, b"", "no such file here"),
        lambda chunk: Chunk(chunk.offset, chunk.total + 1, chunk.data),
        lambda chunk: Chunk(chunk.offset, chunk.total, b""),
        lambda chunk: Chunk(chunk.offset, chunk.total, bytes(chunk.total - chunk.offset + 1)),
    ],
    ids=["refusal", "another-size", "nothing", "too-much"],
)
def test_a_server_that_cannot_give_the_file_is_said_and_asked_again(
    site: Site, answer: Callable[[Chunk], Chunk]
) -> None:
    site.server.spoil = lambda _, chunk: answer(chunk)
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    until(lambda: "the server" in keeper.trouble)
    site.server.spoil = lambda _, chunk: chunk
    assert ready(keeper).name == "base"
    until(lambda: keeper.trouble == "")


def test_asking_twice_pulls_once(site: Site) -> None:
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    assert ready(keeper).first
    before = keeper.bytes_down
    for _ in range(20):
        keeper.want("animals")
        assert keeper.pending("animals") or not keeper.ready.empty()
    assert ready(keeper).name == "animals"
    assert keeper.bytes_down - before == site.size("animals")
    until(lambda: not keeper.pending("animals"))
    assert keeper.ready.empty()


def test_what_is_put_by_is_in_the_store_and_not_loaded_until_it_is_wanted(site: Site) -> None:
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    ready(keeper)
    assert not keeper.has("animals")
    keeper.put_by("animals")
    until(lambda: keeper.has("animals") and not keeper.pending("animals"))
    assert keeper.ready.empty()
    pulled = keeper.bytes_down
    keeper.want("animals")
    loaded = ready(keeper)
    assert (loaded.name, loaded.pulled) == ("animals", False)
    assert keeper.bytes_down == pulled


def test_what_is_in_the_store_is_not_pulled_again_unless_it_is_damaged(site: Site, tmp_path: Path) -> None:
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    ready(keeper)
    keeper.stop()
    again = site.keeper()
    again.announce(site.bundle.data)
    assert not ready(again).pulled
    assert again.bytes_down == 0
    again.stop()
    (tmp_path / "store/blobs" / site.bundle.manifest.models["base"].sha256).write_bytes(b"rotten")
    third = site.keeper()
    third.announce(site.bundle.data)
    assert ready(third).pulled


def test_a_bundle_directory_serves_without_store_or_link(bundle: Bundle) -> None:
    keeper = Customer(None, None, "cam", "cpu", 1, "")
    keeper.start()
    keeper.use(bundle)
    keeper.want("vehicles")
    first, second = ready(keeper), ready(keeper)
    assert (first.name, second.name) == ("base", "vehicles")
    assert not first.pulled
    keeper.stop()


def test_a_model_that_is_being_loaded_is_waited_for_at_the_end(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the interpreter ends under threads of the runtime, which aborts the process."""
    loading, may_end = threading.Event(), threading.Event()

    class Slow(Session):
        def __init__(self, *given: Any) -> None:
            loading.set()
            assert may_end.wait(_BOUND_S)
            super().__init__(*given)

    monkeypatch.setattr(module, "Session", Slow)
    keeper = Customer(None, None, "device", "cpu", 1, "")
    keeper.start()
    keeper.use(bundle)
    assert loading.wait(_BOUND_S)
    threading.Timer(1.5, may_end.set).start()
    keeper.stop()
    assert may_end.is_set() and not keeper._thread.is_alive()
    assert not keeper.trouble  # it did not fail: nobody wants it any more


def test_another_model_may_stand_in_for_the_base_and_none_is_loaded_where_none_is_needed(site: Site) -> None:
    keeper = site.keeper("full")
    keeper.announce(site.bundle.data)
    loaded = ready(keeper)
    assert (loaded.name, loaded.first) == ("full", True)
    none = site.keeper(None)
    none.announce(site.bundle.data)
    assert none.version == site.bundle.version
    with pytest.raises(queue.Empty):
        none.ready.get(timeout=0.2)


@pytest.mark.parametrize(("processors", "all_of_them", "threads"), [(4, 0.5, 4), (4, 0.9, 1), (2, 0.5, 1), (8, 0.8, 8)])
def test_all_processors_run_a_model_together_where_it_is_much_quicker(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, processors: int, all_of_them: float, threads: int
) -> None:
    """A run takes one second of the clock on one thread, and ``all_of_them`` on all."""
    clock, used = [0.0], []

    class Timed(Session):
        def __init__(self, path: Path, provider: Provider, threads: int, slowdown: float) -> None:
            super().__init__(path, provider, 1, slowdown)
            used.append(threads)
            self.takes = 1.0 if threads == 1 else all_of_them

        def run(self, batch: np.ndarray) -> Logits:
            clock[0] += self.takes
            return super().run(batch)

    monkeypatch.setattr(module, "Session", Timed)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(processors)))
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    keeper = Customer(None, None, "cam", "cpu", 0, "")
    keeper.start()
    keeper.use(bundle)
    keeper.want("vehicles")
    first, second = ready(keeper), ready(keeper)
    keeper.stop()
    assert keeper.threads == threads
    assert (first.seconds, second.seconds) == (pytest.approx(1.0 if threads == 1 else all_of_them),) * 2
    assert used == ([1, threads, threads] if threads > 1 else [1, processors, 1] if processors >= 4 else [1, 1])


def test_a_model_that_the_bundle_has_not_is_said(site: Site) -> None:
    keeper = site.keeper("nonsense")
    keeper.announce(site.bundle.data)
    assert "no model nonsense; it has full, base" in keeper.trouble


def edited(directory: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    manifest = msgspec.json.decode((directory / MANIFEST).read_bytes())
    change(manifest)
    data = msgspec.json.encode(manifest)
    (directory / MANIFEST).write_bytes(data)
    return data


@pytest.mark.parametrize("what", ["labels", "file"])
def test_a_model_that_cannot_answer_is_never_handed_over_nor_tried_again(
    what: str, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong number of scores, or bytes that are no model. The models after it are none the worse."""
    broken = tmp_path / "broken"
    shutil.copytree(bundle.directory, broken)
    path = broken / "animals/1/model.onnx"
    if what == "file":
        path.write_bytes(b"no model")
    else:
        classifier(path, np.random.default_rng(0), classes=3)

    def refit(manifest: dict[str, Any]) -> None:
        model = manifest["models"]["animals"]
        model["sha256"], model["bytes"] = file_digest(path), path.stat().st_size

    edited(broken, refit)
    site = Site(tmp_path / "store", Bundle(broken))
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    assert ready(keeper).name == "base"
    keeper.want("animals")
    keeper.want("vehicles")
    assert ready(keeper).name == "vehicles"
    assert "animals cannot be used" in caplog.text
    asked = len(site.server.asked)
    keeper.want("animals")
    with pytest.raises(queue.Empty):
        keeper.ready.get(timeout=0.2)
    assert len(site.server.asked) == asked
    site.close()


def test_a_newer_catalogue_of_the_same_bundle_is_taken_up_and_another_bundles_is_not(
    site: Site, tmp_path: Path
) -> None:
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    ready(keeper)
    newer = Bundle(tiny_bundle(tmp_path / "newer", seed=1))
    site.server.files |= BlobServer(newer).files
    foreign = edited(tiny_bundle(tmp_path / "foreign", seed=2), lambda manifest: manifest.update(name="foreign"))
    keeper.announce(foreign)
    assert keeper.version == site.bundle.version
    keeper.announce(newer.data)
    loaded = ready(keeper)
    assert (loaded.version, loaded.first) == (newer.version, True)
    keeper.announce(newer.data)
    with pytest.raises(queue.Empty):
        keeper.ready.get(timeout=0.2)


def test_a_catalogue_that_is_no_manifest_changes_nothing(site: Site) -> None:
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    ready(keeper)
    with pytest.raises(BundleError):
        keeper.announce(site.bundle.data[:-5])
    assert keeper.version == site.bundle.version


def test_chunks_that_nobody_waits_for_are_not_kept(site: Site) -> None:
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    ready(keeper)
    for _ in range(100):
        keeper.receive(message(encode(Chunk(0, 1000, bytes(1000)))), "0" * 64)
    assert keeper._puller._chunks.empty()


def test_it_keeps_no_reference_to_what_it_handed_over(site: Site) -> None:
    """Or dropping a submodel would free nothing until the next one is loaded."""
    keeper = site.keeper()
    keeper.announce(site.bundle.data)
    loaded = ready(keeper)
    until(lambda: not keeper.pending("base"))
    session = weakref.ref(loaded.session)
    del loaded
    gc.collect()
    assert session() is None


@pytest.mark.parametrize("state", ["idle", "unconnected", "unanswered", "refused"])
def test_stopping_takes_no_time_whatever_it_waits_for(site: Site, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puller, "_PATIENCE_S", 60.0)
    monkeypatch.setattr(module, "_RETRY_S", 60.0)
    keeper = site.keeper()
    if state == "unconnected":
        site.link.connected.clear()
    elif state == "unanswered":
        site.server.spoil = lambda *_: None
    elif state == "refused":
        site.server.spoil = lambda _, chunk: Chunk(chunk.offset, 0, b"", "no")
    if state != "idle":
        keeper.announce(site.bundle.data)
        time.sleep(0.2)
    begun = time.monotonic()
    keeper.stop()
    assert time.monotonic() - begun < 0.9
    assert not keeper._thread.is_alive()


def test_with_a_trusted_key_nothing_is_taken_that_it_has_not_signed(site: Site, tmp_path: Path) -> None:
    """Neither unsigned nor signed by another; what is refused is not even kept."""
    private, public = generate(tmp_path / "ours")
    stranger, _ = generate(tmp_path / "theirs")
    keeper = site.keeper(trusted=Key(public))
    for signature in (b"", Signer(stranger).sign(site.bundle.data), Signer(private).sign(b"something else")):
        with pytest.raises(BundleError, match="is not taken"):
            keeper.announce(site.bundle.data, signature)
        assert "--trusted-key" in keeper.trouble
        assert keeper.offer is None
        assert site.store.recall() is None
    keeper.announce(site.bundle.data, Signer(private).sign(site.bundle.data))
    assert ready(keeper).name == "base"


def test_a_signature_is_kept_as_long_as_its_manifest(site: Site, tmp_path: Path) -> None:
    """So that a device that starts without a network can trust what it has; an older version's goes."""
    private, public = generate(tmp_path / "keys")
    signature = Signer(private).sign(site.bundle.data)
    keeper = site.keeper(trusted=Key(public))
    keeper.announce(site.bundle.data, signature)
    known = site.store.recall()
    assert known is not None
    assert site.store.signature(known) == signature
    newer = site.bundle.data + b"\n"
    keeper.announce(newer, Signer(private).sign(newer))
    assert site.store.signature(newer)
    assert site.store.signature(site.bundle.data) == b""
