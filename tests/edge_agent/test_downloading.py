"""Downloads: chunk by chunk, despite lost and corrupt chunks, and once."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cachenet.edge_agent.updates import downloader
from cachenet.edge_agent.updates import loader as module
from cachenet.shared.transport.protocol import BlobRequest, Chunk, encode
from tests.edge_agent.links import message
from tests.edge_agent.loaders import (
    LoaderWithUpdater,
    Site,
    bundle,
    ready,
    site,
    small_chunks_and_short_timeouts,
    until,
)

__all__ = ["bundle", "site", "small_chunks_and_short_timeouts"]


def test_a_catalogue_brings_the_base_model_whole_and_runnable(site: Site) -> None:
    loader = site.loader()
    loader.announce(site.bundle.data)
    loaded = ready(loader)
    assert (loaded.name, loaded.first, loaded.version) == ("base", True, site.bundle.version)
    assert loaded.cost >= site.size("base")
    assert loaded.session.run(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 10)
    until(lambda: site.store.current() == site.bundle.data)
    path = site.store.path(site.bundle.manifest.models["base"].sha256)
    assert path is not None
    assert path.read_bytes() == site.bundle.path("base").read_bytes()
    assert loader.bytes_down == site.size("base")
    assert max(request.length for request in site.server.asked) <= 600


def test_a_transfer_resumes_where_another_run_was_interrupted(site: Site) -> None:
    base = site.bundle.manifest.models["base"]
    site.store.append(base.sha256, site.bundle.path("base").read_bytes()[:1100])
    loader = site.loader()
    loader.announce(site.bundle.data)
    assert ready(loader).name == "base"
    assert min(request.offset for request in site.server.asked) == 1100


def test_lost_chunks_are_requested_again_and_others_ignored(site: Site) -> None:
    observed: set[int] = set()

    def spoil(request: BlobRequest, chunk: Chunk) -> Chunk | None:
        if request.offset in observed:
            return chunk
        observed.add(request.offset)
        return None if request.offset < 700 else Chunk(chunk.offset + 1, chunk.total, chunk.data)

    site.server.spoil = spoil
    loader = site.loader()
    loader.announce(site.bundle.data)
    assert ready(loader).name == "base"


def test_a_download_waits_for_a_connection_and_continues(site: Site) -> None:
    site.link.connected.clear()
    loader = site.loader()
    loader.announce(site.bundle.data)
    with pytest.raises(queue.Empty):
        loader.ready.get(timeout=0.3)
    assert site.server.asked == []
    site.link.connected.set()
    assert ready(loader).name == "base"


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
    loader = site.loader()
    loader.announce(site.bundle.data)
    assert ready(loader).name == "base"
    assert "another digest" in caplog.text
    assert [request.offset for request in site.server.asked].count(0) == 2


@pytest.mark.parametrize(
    "answer",
    [
        lambda chunk: Chunk(chunk.offset, 0, b"", "no such file here"),
        lambda chunk: Chunk(chunk.offset, chunk.total + 1, chunk.data),
        lambda chunk: Chunk(chunk.offset, chunk.total, b""),
        lambda chunk: Chunk(chunk.offset, chunk.total, bytes(chunk.total - chunk.offset + 1)),
        lambda chunk: Chunk(chunk.offset, chunk.total, chunk.data[:1]),
    ],
    ids=["refusal", "another-size", "nothing", "too-much", "single-bytes"],
)
def test_a_server_without_the_file_is_reported_and_asked_again(site: Site, answer: Callable[[Chunk], Chunk]) -> None:
    site.server.spoil = lambda _, chunk: answer(chunk)
    loader = site.loader()
    loader.announce(site.bundle.data)
    until(lambda: "the server" in loader.errors)
    site.server.spoil = lambda _, chunk: chunk
    assert ready(loader).name == "base"
    until(lambda: loader.errors == "")


def test_an_endless_error_of_a_server_does_not_fill_log_and_status(site: Site) -> None:
    site.server.spoil = lambda _, chunk: Chunk(chunk.offset, 0, b"", 200_000 * "x")
    loader = site.loader()
    loader.announce(site.bundle.data)
    until(lambda: "the server says" in loader.errors)
    assert len(loader.errors) < 1000


def with_a_file_that_does_not_come(site: Site) -> tuple[LoaderWithUpdater, str]:
    """A loader that waits for the model ``animals``, whose requests the server does not answer; and its digest."""
    slow = site.bundle.manifest.models["animals"].sha256
    site.server.spoil = lambda request, chunk: None if request.sha256 == slow else chunk
    loader = site.loader()
    loader.announce(site.bundle.data)
    assert ready(loader).name == "base"
    loader.request("animals")
    return loader, slow


def test_a_file_that_does_not_come_holds_up_no_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow retrieval: a server that answers the requests of one file late or never."""
    monkeypatch.setattr(downloader, "_STALLED_S", 0.3)
    loader, _ = with_a_file_that_does_not_come(site)
    until(lambda: "has sent nothing" in loader.errors)
    loader.request("vehicles")
    assert ready(loader).name == "vehicles"
    site.server.spoil = lambda _, chunk: chunk
    assert ready(loader).name == "animals"


def test_pieces_that_nobody_asked_for_prolong_no_download(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloader, "_STALLED_S", 0.3)
    monkeypatch.setattr(downloader, "_CHUNK_TIMEOUT_S", 1.0)
    loader, slow = with_a_file_that_does_not_come(site)
    loader.request("vehicles")

    def another_is_ready() -> bool:
        loader.receive(message(encode(Chunk(1, site.size("animals"), b"x"))), slow)
        return not loader.ready.empty()

    until(another_is_ready)
    assert ready(loader).name == "vehicles"


def test_repeated_requests_download_once(site: Site) -> None:
    loader = site.loader()
    loader.announce(site.bundle.data)
    assert ready(loader).first
    before = loader.bytes_down
    for _ in range(20):
        loader.request("animals")
        assert loader.is_pending("animals") or not loader.ready.empty()
    assert ready(loader).name == "animals"
    assert loader.bytes_down - before == site.size("animals")
    until(lambda: not loader.is_pending("animals"))
    assert loader.ready.empty()


def test_a_stored_file_is_downloaded_again_only_if_damaged(site: Site, tmp_path: Path) -> None:
    loader = site.loader()
    loader.announce(site.bundle.data)
    ready(loader)
    loader.stop()
    again = site.loader()
    again.announce(site.bundle.data)
    ready(again)
    assert again.bytes_down == 0
    again.stop()
    (tmp_path / "store/blobs" / site.bundle.manifest.models["base"].sha256).write_bytes(b"rotten")
    third = site.loader()
    third.announce(site.bundle.data)
    ready(third)
    assert third.bytes_down == site.size("base")


def test_unexpected_chunks_are_dropped(site: Site) -> None:
    loader = site.loader()
    loader.announce(site.bundle.data)
    ready(loader)
    for _ in range(100):
        loader.receive(message(encode(Chunk(0, 1000, bytes(1000)))), "0" * 64)
    assert loader._downloader._chunks.empty()


@pytest.mark.parametrize("state", ["idle", "unconnected", "unanswered", "refused"])
def test_stopping_takes_no_time_whatever_it_waits_for(site: Site, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloader, "_CHUNK_TIMEOUT_S", 60.0)
    monkeypatch.setattr(module, "RETRY_S", (60.0, 60.0))
    loader = site.loader()
    if state == "unconnected":
        site.link.connected.clear()
    elif state == "unanswered":
        site.server.spoil = lambda *_: None
    elif state == "refused":
        site.server.spoil = lambda _, chunk: Chunk(chunk.offset, 0, b"", "no")
    if state != "idle":
        loader.announce(site.bundle.data)
        time.sleep(0.2)
    begun = time.monotonic()
    loader.stop()
    assert time.monotonic() - begun < 0.9
    assert not loader._thread.alive
