"""A device that floods a server process, and another that asks one question meanwhile."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport.protocol import Answer, Rejection, Reply
from tests.broker import Mosquitto
from tests.e2e.servers import GOOD, Device, ServerProcess, bundle, until

__all__ = ["bundle"]


def png(side: int) -> bytes:
    return cv2.imencode(".png", np.zeros((side, side, 3), np.uint8))[1].tobytes()


def test_a_flood_fills_its_own_places_only_and_a_question_passes_it(
    bundle: Bundle, broker: Mosquitto, tmp_path: Path
) -> None:
    """The flood's pictures are the largest that the server decodes. Counts decide: of 32 places, most still wait."""
    server = ServerProcess(tmp_path, "--bundle", str(bundle.directory), "--broker", broker.url)
    flood, honest = Device(broker.port, "flood"), Device(broker.port, "honest")
    try:
        flood.ready()
        honest.ready()
        refused = flood.ask(png(4000), budget_ms=600_000)
        assert isinstance(refused, Rejection)
        assert (refused.reason, refused.detail) == ("bad-input", "picture of 4000x4000 pixels, 2100000 allowed")
        assert isinstance(flood.ask(png(1440)), Answer)
        sent = [flood.send(png(1440), budget_ms=600_000) for _ in range(80)]
        until(lambda: any(isinstance(reply, Rejection) for reply in replies(flood)[2:]))  # its places are full
        assert isinstance(honest.ask(GOOD), Answer)
        assert sum(isinstance(reply, Answer) for reply in replies(flood)) < 1 + 32
        busy = [reply for reply in map(flood.wait, sent) if isinstance(reply, Rejection)]
        assert {reply.reason for reply in busy} == {"busy"}
        assert all(reply.retry_after_ms is not None and reply.retry_after_ms > 0 for reply in busy)
        assert len(busy) > 80 / 2
        counts, _ = server.stop()
        assert counts["refusals"] == {"bad-input": 1, "busy": len(busy)}
        assert counts["answers"] == 1 + 1 + 80 - len(busy)
        assert counts["throttled"] <= len(busy)
    finally:
        server.close()
        flood.link.stop()
        honest.link.stop()


def replies(device: Device) -> list[Reply]:
    return [reply for received in list(device.answers.values()) for reply in received]
