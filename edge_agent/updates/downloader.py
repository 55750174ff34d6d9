"""Fetches files from the server into the store, by their digest and a piece at a time. A transfer goes on from what the
store holds."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from pathlib import Path

from cachenet.edge_agent.updates.store import Store, StoreError
from cachenet.shared.bundle.manifest import Golden, Layer, Model
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Message, MqttConnection

log = logging.getLogger(__name__)

#: One request's share of a file, bytes. Small, so that an answer never queues long behind a chunk on a slow link.
PIECE = 32 << 10
#: Bytes that stay free on the disk: what the system and the agent's other files need.
SPARE = 8 << 20
_PATIENCE_S = 2.0
_POLL_S = 0.1


class Downloader:
    """One file at a time; what it asked for comes in by the link's thread."""

    def __init__(self, store: Store | None, link: MqttConnection | None, device: str) -> None:
        self.bytes_down = 0
        self._store, self._link = store, link
        self._get = protocol.topic(device, "blob", "get")
        self._chunks: queue.SimpleQueue[tuple[str, protocol.Chunk] | None] = queue.SimpleQueue()
        self._awaited = ""
        self._interrupted = threading.Event()

    @property
    def connected(self) -> bool:
        """Whether there is a server to ask."""
        return self._link is not None and self._link.connected.is_set()

    def interrupt(self) -> None:
        """Let ``pull`` end with a ``StoreError``, wherever it waits, until ``resume``; from any thread."""
        self._interrupted.set()
        self._chunks.put(None)

    def resume(self) -> None:
        """Let ``pull`` go on from now on."""
        with contextlib.suppress(queue.Empty):
            while True:  # what an interruption has left behind would have a piece asked for twice
                self._chunks.get_nowait()
        self._interrupted.clear()

    def receive(self, message: Message, sha256: str) -> None:
        """Take a chunk (on the link's thread). Raises ``protocol.Malformed``."""
        if sha256 == self._awaited:
            chunk = protocol.decode(message.payload, protocol.Chunk)
            self.bytes_down += len(chunk.data)
            self._chunks.put((sha256, chunk))

    def get(self, one: Model | Layer | Golden) -> tuple[Path, bool]:
        """Where a file of a bundle is in the store, and whether it was fetched for this. Raises ``StoreError``."""
        assert self._store is not None
        if (path := self._store.path(one.sha256)) is not None:
            return path, False
        log.info("pulling %s, %.1f kB", one.file, one.bytes / 1000)
        return self.download(one.sha256, one.bytes), True

    def download(self, sha256: str, size: int) -> Path:
        """The file, whole and checked. Raises ``StoreError``, and ``MismatchError`` where what came is another."""
        assert self._store is not None
        if self._store.read_only:
            raise StoreError(f"nothing can be fetched: the store is {self._store.read_only.lower()}")
        if self._store.offset(sha256) > size:
            self._store.discard(sha256)
        if size - self._store.offset(sha256) > (room := self._store.free_bytes() - SPARE):
            raise StoreError(f"{sha256[:12]} has {size / 1e6:.1f} MB and the disk {max(0, room) / 1e6:.1f} MB left")
        while (offset := self._store.offset(sha256)) < size:
            chunk = self._fetch(sha256, offset, min(PIECE, size - offset))
            if chunk.error:
                raise StoreError(f"{sha256[:12]}: the server says {chunk.error}")
            if chunk.total != size or not 0 < len(chunk.data) <= size - offset:
                raise StoreError(f"{sha256[:12]}: the server's file has another size")
            self._store.append(sha256, chunk.data)
        return self._store.finish(sha256)

    def _fetch(self, sha256: str, offset: int, length: int) -> protocol.Chunk:
        if self._link is None:
            raise StoreError("no broker to fetch models from")
        request = protocol.encode(protocol.BlobRequest(sha256, offset, length))
        begun, self._awaited = time.monotonic(), sha256
        try:
            while not self._interrupted.is_set():
                if not self._link.publish(self._get, request, qos=1):
                    if time.monotonic() - begun > _PATIENCE_S:
                        raise StoreError("there is no connection to fetch models over")
                    self._interrupted.wait(_POLL_S)
                    continue
                with contextlib.suppress(queue.Empty):
                    while (arrived := self._chunks.get(timeout=_PATIENCE_S)) is not None:
                        of, chunk = arrived
                        if of == sha256 and chunk.offset == offset:
                            return chunk
            raise StoreError("interrupted")
        finally:
            self._awaited = ""
