"""The server on a broker that takes nothing from it."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from cachenet.cloud_server.serving.server import Server
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address
from tests.bundles import tiny_bundle
from tests.e2e.servers import until

_REQUESTS = 200


class StuckBroker:
    """Accepts one connection, sends it messages, and reads nothing after its subscriptions."""

    def __init__(self, topic: str, payload: bytes) -> None:
        body = struct.pack("!H", len(topic)) + topic.encode() + b"\0" + payload
        assert len(body) < 128, "a length of one byte"
        self._message = bytes([0x30, len(body)]) + body
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self._client, _ = self._listener.accept()
        self._client.recv(4096)
        self._client.sendall(b"\x20\x03\0\0\0" + self._message * _REQUESTS)

    def close(self) -> None:
        self._thread.join()
        self._client.close()
        self._listener.close()


def test_a_device_that_asks_for_pieces_faster_than_the_broker_takes_them_takes_no_memory(tmp_path: Path) -> None:
    bundle = Bundle(tiny_bundle(tmp_path))
    full = bundle.manifest.models["full"]
    request = protocol.encode(protocol.BlobRequest(full.sha256, 0, protocol.CHUNK))
    broker = StuckBroker("cachenet/2/d/blob/get", request)
    model = cast(Any, SimpleNamespace(name="full", batch=0, remote=False, sha256=full.sha256))
    server = Server(bundle, model, [Address("127.0.0.1", broker.port)], 64, 16, 0.25, own_broker=True)
    server._blobs.chunk = lambda asked: protocol.Chunk(asked.offset, 1 << 20, bytes(protocol.CHUNK))  # type: ignore[method-assign]
    server.start()
    try:
        until(lambda: server.counters.read().bytes_in >= _REQUESTS * len(request))
        waiting = sum(len(packet["packet"]) for packet in list(server._shards[0].link._client._out_packet))
        assert waiting < 4 * protocol.CHUNK
    finally:
        server.stop()
        broker.close()
