"""Fake connections to a broker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Message


class FakeLink:
    """Passes published messages to ``on_publish`` (topic, payload, options), which returns whether they were sent."""

    def __init__(self, on_publish: Callable[[str, bytes, dict[str, Any]], bool]) -> None:
        self.connected = threading.Event()
        self.connected.set()
        self.error = ""
        self._on_publish = on_publish

    def publish(self, topic: str, payload: bytes, qos: int = 0, **rest: Any) -> bool:
        return self.connected.is_set() and self._on_publish(topic, payload, {"qos": qos, **rest})


class ServedLink(FakeLink):
    """A server that answers every question and audit at once with the label that ``label`` gives."""

    def __init__(self, bundle: Bundle, label: Callable[[], int]) -> None:
        super().__init__(self._answer)
        self._model, self._classes = bundle.manifest.models["full"].sha256, len(bundle.manifest.labels)
        self._label = label
        self.deliver: Callable[[Message], None] = lambda _: None
        self.audits = 0

    def _answer(self, topic: str, _payload: bytes, rest: dict[str, Any]) -> bool:
        self.audits += "/audit/" in topic
        if "/infer/" in topic or "/audit/" in topic:
            scores = np.zeros(self._classes, np.float32)
            scores[self._label()] = 20.0
            answer = protocol.Answer(scores.tobytes(), self._model, None, protocol.Timing(0.0, 0.0, 0.0, 1))
            answered = topic.split("/")[2]
            self.deliver(
                Message(protocol.topic(answered, "answer"), protocol.encode(answer), None, rest["correlation"], ())
            )
        return True

    def start(self) -> None:
        """Nothing to do."""

    def stop(self, *_: Any) -> None:
        """Nothing to do."""

    def settle(self, _seconds: float) -> str:
        return ""


def message(payload: bytes, correlation: bytes | None = None) -> Message:
    return Message("", payload, None, correlation, ())


class BlobServer:
    """Answers requests for a bundle's files like a server, counts them, and can inject faults."""

    def __init__(self, bundle: Bundle) -> None:
        self.files = {model.sha256: bundle.path(name).read_bytes() for name, model in bundle.manifest.models.items()}
        self.asked: list[protocol.BlobRequest] = []
        #: May change or withhold a chunk.
        self.spoil: Callable[[protocol.BlobRequest, protocol.Chunk], protocol.Chunk | None] = lambda _, chunk: chunk
        self.deliver: Callable[[Message, str], None] = lambda *_: None

    def __call__(self, topic: str, payload: bytes, _rest: dict[str, Any]) -> bool:
        assert topic.endswith("/blob/get")
        request = protocol.decode(payload, protocol.BlobRequest)
        self.asked.append(request)
        data = self.files[request.sha256]
        piece = data[request.offset : request.offset + request.length]
        chunk = self.spoil(request, protocol.Chunk(request.offset, len(data), piece))
        if chunk is not None:
            self.deliver(message(protocol.encode(chunk)), request.sha256)
        return True
