"""A device that floods a server process, and another that asks one question meanwhile."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address
from cachenet.shared.transport.protocol import Answer, Rejection, Reply
from tests.broker import Mosquitto
from tests.e2e.clients import Client, clients
from tests.e2e.servers import GOOD, ServerProcess, bundle, until

__all__ = ["bundle"]

#: Requests of the flood; a device has 32 places in the queue.
_FLOOD = 80


def png(side: int) -> bytes:
    return cv2.imencode(".png", np.zeros((side, side, 3), np.uint8))[1].tobytes()


def test_a_flood_fills_its_own_places_only_and_a_question_passes_it(
    bundle: Bundle, broker: Mosquitto, tmp_path: Path
) -> None:
    """The order of the replies decides. One connection sends all requests, so the question arrives last."""
    server = ServerProcess(tmp_path, "--bundle", str(bundle.directory), "--broker", broker.url)
    answers = [protocol.topic(device, "answer") for device in ("flood", "honest")]
    sender = Client(Address("127.0.0.1", broker.port), "sender", *answers)

    def send(device: str, data: bytes, correlation: bytes) -> None:
        properties = [("budget-ms", "600000"), ("recent", "")]
        topic = protocol.topic(device, "infer", "full")
        sender.link.publish(topic, data, content="image/png", correlation=correlation, properties=properties)

    def replies(count: int) -> list[tuple[bytes | None, Reply]]:
        until(lambda: len(sender.messages) >= count)
        return [(one.correlation, protocol.decode(one.payload, Reply)) for one in sender.messages]

    with clients(sender):
        try:
            server.wait_for("connected to")
            until(sender.link.connected.is_set)
            large = png(1440)
            send("flood", png(4000), b"too large")
            send("flood", large, b"first")
            (_, refused), (_, first) = replies(2)
            assert refused == Rejection("bad-input", "picture of 4000x4000 pixels, 2100000 allowed")
            assert isinstance(first, Answer)
            for number in range(_FLOOD):
                send("flood", large, b"%d" % number)
            send("honest", GOOD, b"question")
            answered = [name for name, reply in replies(2 + _FLOOD + 1) if isinstance(reply, Answer)]
            busy = [reply for _, reply in replies(0) if isinstance(reply, Rejection) and reply.reason == "busy"]
            assert len(busy) > _FLOOD / 4
            assert all(reply.retry_after_ms for reply in busy)
            assert len(answered) - answered.index(b"question") > 32 / 4, "most of the flood waits behind the question"
            counts, _ = server.stop()
            assert counts["refusals"] == {"bad-input": 1, "busy": len(busy)}
            assert counts["answers"] == len(answered) == 1 + _FLOOD - len(busy) + 1
        finally:
            server.close()
