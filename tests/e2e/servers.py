"""A server process and a device on a real connection, for tests of running servers."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.image import encode
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection
from cachenet.shared.transport.protocol import BlobRequest, Chunk, Reply
from tests.bundles import tiny_bundle

_BOUND_S = 60.0


def until(condition: Callable[[], object], why: str = "timeout", seconds: float = _BOUND_S) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.01)


class ServerProcess:
    """``cloud-server run`` with these flags and its log in a file."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self._log = directory / "server.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cachenet.cloud_server", "run", "--provider", "cpu", "--json", *flags],
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        until(lambda: text in self.log() or self.process.poll() is not None)
        assert text in self.log()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[dict[str, Any], float]:
        """End the server with a signal. The counts that it prints, and the time until its end, seconds."""
        started = time.monotonic()
        self.process.send_signal(how)
        out, _ = self.process.communicate(timeout=_BOUND_S)
        assert self.process.returncode == 0, self.log()
        return json.loads(out), time.monotonic() - started

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Device:
    """A device that follows the wire protocol."""

    def __init__(self, port: int, name: str = "cam") -> None:
        self.name = name
        self.catalogue: list[Message] = []
        self.answers: dict[bytes, list[Reply]] = {}
        self.chunks: list[Chunk] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        topics = [protocol.topic(name, "answer"), protocol.topic(name, "blob", "+"), protocol.CATALOGUE_TOPICS]
        self.link = MqttConnection(Address("127.0.0.1", port), name, [(topic, 1) for topic in topics], self._receive)
        self.link.start()

    def _receive(self, message: Message) -> None:
        with self._changed:
            if message.topic == protocol.topic(self.name, "answer"):
                reply = protocol.decode(message.payload, Reply)
                self.answers.setdefault(message.correlation or b"", []).append(reply)
            elif message.topic == protocol.topic(self.name, "blob", "get"):
                pass  # its own request, which matches its subscription
            elif "/blob/" in message.topic:
                self.chunks.append(protocol.decode(message.payload, Chunk))
            else:
                self.catalogue.append(message)
            self._changed.notify()

    def send(self, data: bytes, model: str = "full", budget_ms: int = 60_000, **overrides: Any) -> bytes:
        """Publish a request; return its correlation data."""
        correlation = b"%d" % next(self._numbers)
        fields: dict[str, Any] = {
            "content": "image/png",
            "properties": protocol.Request(model, "image/png", correlation, budget_ms).properties(),
        }
        fields.update(overrides)
        assert self.link.publish(protocol.topic(self.name, "infer", model), data, correlation=correlation, **fields)
        return correlation

    def wait(self, correlation: bytes) -> Reply:
        with self._changed:
            assert self._changed.wait_for(lambda: correlation in self.answers, _BOUND_S), "no answer"
            return self.answers[correlation][0]

    def ask(self, data: bytes, **overrides: Any) -> Reply:
        return self.wait(self.send(data, **overrides))

    def pull(self, sha256: str, offset: int, length: int) -> Chunk:
        before = len(self.chunks)
        request = protocol.encode(BlobRequest(sha256, offset, length))
        assert self.link.publish(protocol.topic(self.name, "blob", "get"), request, qos=1)
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.chunks) > before, _BOUND_S), "no chunk"
            return self.chunks[before]

    def catalogue_of(self, bundle: str) -> list[Message]:
        """The catalogue messages of a bundle."""
        return [message for message in self.catalogue if message.topic == protocol.catalogue(bundle)]

    def ready(self) -> None:
        """Wait for a server. It publishes its catalogue after it has subscribed."""
        until(lambda: self.catalogue, "no catalogue")


def picture(seed: int, side: int = 48) -> np.ndarray:
    """A BGR picture of 6x6 random blocks, ``(side, side, 3)``."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_NEAREST)


GOOD = encode(picture(0))[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))
