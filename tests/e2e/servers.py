"""A server as a process, and a device on the wire: what tests of running servers share."""

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
from cachenet.shared.transport.protocol import Answer, BlobRequest, Chunk, Rejection
from tests.bundles import tiny_bundle

_BOUND_S = 60.0


def until(true: Callable[[], object], why: str = "waited in vain") -> None:
    deadline = time.monotonic() + _BOUND_S
    while not true():
        assert time.monotonic() < deadline, why
        time.sleep(0.01)


class ServerProcess:
    """``cloud-server run`` with these flags, its log in a file."""

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
        """The counts it prints, and how long it took to end, seconds."""
        begun = time.monotonic()
        self.process.send_signal(how)
        out, _ = self.process.communicate(timeout=_BOUND_S)
        assert self.process.returncode == 0, self.log()
        return json.loads(out), time.monotonic() - begun

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Device:
    """A device as the protocol has it, on a real connection."""

    def __init__(self, port: int, name: str = "cam") -> None:
        self.name = name
        self.catalogue: list[Message] = []
        self.answers: dict[bytes, list[Answer | Rejection]] = {}
        self.chunks: list[Chunk] = []
        self._numbers = itertools.count()
        self._news = threading.Condition()
        topics = [protocol.topic(name, "answer"), protocol.topic(name, "blob", "+"), protocol.CATALOGUE_TOPICS]
        self.link = MqttConnection(Address("127.0.0.1", port), name, [(topic, 1) for topic in topics], self._receive)
        self.link.start()

    def _receive(self, message: Message) -> None:
        with self._news:
            if message.topic == protocol.topic(self.name, "answer"):
                said = protocol.decode(message.payload, Answer | Rejection)
                self.answers.setdefault(message.correlation or b"", []).append(said)
            elif message.topic == protocol.topic(self.name, "blob", "get"):
                pass  # its own request, which its subscription matches too
            elif "/blob/" in message.topic:
                self.chunks.append(protocol.decode(message.payload, Chunk))
            else:
                self.catalogue.append(message)
            self._news.notify()

    def send(self, data: bytes, model: str = "full", budget_ms: int = 60_000, **said: Any) -> bytes:
        """Publish a request; return its correlation data."""
        correlation = b"%d" % next(self._numbers)
        fields: dict[str, Any] = {
            "content": "image/png",
            "properties": protocol.Request(model, "image/png", correlation, budget_ms).properties(),
        }
        fields.update(said)
        assert self.link.publish(protocol.topic(self.name, "infer", model), data, correlation=correlation, **fields)
        return correlation

    def wait(self, correlation: bytes) -> Answer | Rejection:
        with self._news:
            assert self._news.wait_for(lambda: correlation in self.answers, _BOUND_S), "no answer"
            return self.answers[correlation][0]

    def ask(self, data: bytes, **said: Any) -> Answer | Rejection:
        return self.wait(self.send(data, **said))

    def pull(self, sha256: str, offset: int, length: int) -> Chunk:
        before = len(self.chunks)
        request = protocol.encode(BlobRequest(sha256, offset, length))
        assert self.link.publish(protocol.topic(self.name, "blob", "get"), request, qos=1)
        with self._news:
            assert self._news.wait_for(lambda: len(self.chunks) > before, _BOUND_S), "no chunk"
            return self.chunks[before]

    def told(self, bundle: str) -> list[Message]:
        """What the catalogue has said of it."""
        return [message for message in self.catalogue if message.topic == protocol.catalogue(bundle)]

    def ready(self) -> None:
        """Return when a server is there: it has subscribed before it shows its catalogue."""
        until(lambda: self.catalogue, "no catalogue")


def picture(seed: int, side: int = 48) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_NEAREST)


GOOD = encode(picture(0))[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))
