"""Download of files from the server into the store, by digest and in chunks; transfers resume at the stored offset."""

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
from cachenet.shared.transport.mqtt import Link, Message

log = logging.getLogger(__name__)

#: Size of one chunk, bytes. Small, so that a reply never queues long behind a chunk on a slow link.
CHUNK_BYTES = 32 << 10
#: Bytes that stay free on the disk for the system and the agent's other files.
RESERVED_BYTES = 8 << 20
#: Time to wait for a chunk before it is requested again, and for a connection, seconds.
_CHUNK_TIMEOUT_S = 2.0
#: Time after which a download without a new chunk is given up, seconds: it is tried again after the others. A server
#: that sends single bytes, or nothing, holds up no other file.
_STALLED_S = 60.0
#: Longest part of a server's error that log and status repeat, characters.
_MAX_ERROR = 200
#: Time between two attempts to send a request, seconds.
_POLL_S = 0.1


class Downloader:
    """Downloads one file at a time; chunks arrive on the connection's thread."""

    def __init__(self, store: Store | None, link: Link | None, device: str) -> None:
        self.bytes_down = 0
        self._store, self._link = store, link
        self._request_topic = protocol.topic(device, "blob", "get")
        self._chunks: queue.SimpleQueue[tuple[str, protocol.Chunk] | None] = queue.SimpleQueue()
        #: Digest of the file whose chunk is awaited; empty for none.
        self._awaited = ""
        self._interrupted = threading.Event()

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the broker."""
        return self._link is not None and self._link.connected.is_set()

    def interrupt(self) -> None:
        """Make ``download`` raise ``StoreError`` until ``resume`` is called; thread-safe."""
        self._interrupted.set()
        self._chunks.put(None)

    def resume(self) -> None:
        """Allow downloads again."""
        with contextlib.suppress(queue.Empty):
            while True:  # an old entry would end the next wait early and request a chunk twice
                self._chunks.get_nowait()
        self._interrupted.clear()

    def receive(self, message: Message, sha256: str) -> None:
        """Receive a chunk, on the connection's thread. Raises ``protocol.Malformed``."""
        if sha256 == self._awaited:
            chunk = protocol.decode(message.payload, protocol.Chunk)
            self.bytes_down += len(chunk.data)
            self._chunks.put((sha256, chunk))

    def get(self, one: Model | Layer | Golden) -> tuple[Path, bool]:
        """Path of a bundle's file in the store, and whether it was downloaded now. Raises ``StoreError``."""
        assert self._store is not None
        if (path := self._store.path(one.sha256)) is not None:
            return path, False
        log.info("downloading %s, %.1f kB", one.file, one.bytes / 1000)
        return self.download(one.sha256, one.bytes), True

    def download(self, sha256: str, size: int) -> Path:
        """Download a file of ``size`` bytes into the store.

        Raises:
            MismatchError: The received bytes have another digest.
            StoreError: The server, the connection or the disk fails, or the download is interrupted.
        """
        assert self._store is not None
        if self._store.read_only:
            raise StoreError(f"nothing can be fetched: the store is {self._store.read_only.lower()}")
        if self._store.offset(sha256) > size:
            self._store.discard(sha256)
        if size - self._store.offset(sha256) > (free := self._store.free_bytes() - RESERVED_BYTES):
            raise StoreError(f"{sha256[:12]} has {size / 1e6:.1f} MB and the disk {max(0, free) / 1e6:.1f} MB left")
        while (offset := self._store.offset(sha256)) < size:
            length = min(CHUNK_BYTES, size - offset)
            chunk = self._fetch_chunk(sha256, offset, length)
            if chunk.error:
                raise StoreError(f"{sha256[:12]}: the server says {chunk.error[:_MAX_ERROR]}")
            if chunk.total != size or len(chunk.data) != length:
                raise StoreError(f"{sha256[:12]}: the server's file has another size")
            self._store.append(sha256, chunk.data)
        return self._store.finish(sha256)

    def _fetch_chunk(self, sha256: str, offset: int, length: int) -> protocol.Chunk:
        if self._link is None:
            raise StoreError("no broker to fetch models from")
        request = protocol.encode(protocol.BlobRequest(sha256, offset, length))
        begun, self._awaited = time.monotonic(), sha256
        try:
            while not self._interrupted.is_set():
                if time.monotonic() - begun > _STALLED_S:
                    raise StoreError(f"{sha256[:12]}: the server has sent nothing for {_STALLED_S:.0f} s")
                if not self._link.publish(self._request_topic, request, qos=1):
                    if time.monotonic() - begun > _CHUNK_TIMEOUT_S:
                        raise StoreError("there is no connection to fetch models over")
                    self._interrupted.wait(_POLL_S)
                    continue
                again = time.monotonic() + _CHUNK_TIMEOUT_S  # also if other pieces arrive meanwhile
                with contextlib.suppress(queue.Empty):
                    while (left := again - time.monotonic()) > 0 and (arrived := self._chunks.get(timeout=left)):
                        received, chunk = arrived
                        if received == sha256 and chunk.offset == offset:
                            return chunk
            raise StoreError("interrupted")
        finally:
            self._awaited = ""
