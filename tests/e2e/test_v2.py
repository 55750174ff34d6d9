"""``cloud-server run --executor v2`` with MLServer, which has ONNX Runtime behind, and with a faulty server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest

from cachenet.cloud_server.serving.full_model import FullModel, load_full
from cachenet.cloud_server.serving.v2 import V2Model
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport.protocol import Answer, Rejection
from tests import mlserver
from tests.broker import Mosquitto, free_port
from tests.bundles import tiny_bundle
from tests.detectors import detector_bundle, footage
from tests.e2e.servers import GOOD, Device, ServerProcess, picture, until
from tests.shared.test_metrics_endpoint import get
from tests.v2_server import V2Server

needs_mlserver = pytest.mark.skipif(not mlserver.PROGRAM.exists(), reason=mlserver.MISSING)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tiny_bundle(tmp_path / "bundle"))


@contextmanager
def run(directory: Path, bundle: Bundle, broker: Mosquitto, url: str) -> Iterator[tuple[ServerProcess, Device, int]]:
    """A server with the V2 server at ``url``, a device, and the port of the server's /health."""
    port = free_port()
    flags = ["--bundle", str(bundle.directory), "--broker", broker.url, "--metrics", str(port)]
    server = ServerProcess(directory, *flags, "--executor", "v2", "--v2-url", url)
    device = Device(broker.port)
    try:
        device.ready()
        yield server, device, port
        assert "Traceback" not in server.log()
    finally:
        device.link.stop()
        server.close()


def scores(bundle: Bundle, data: bytes) -> bytes:
    """Scores of the full model in this process."""
    model = FullModel(bundle, "cpu", 1)
    return model.run([model.prepare(data)], [None])[0].logits.astype("<f4").tobytes()


def health(port: int) -> str:
    status, text = get(port, "/health")
    return "" if status == 200 else str(json.loads(text)["why"])


@needs_mlserver
def test_answers_through_mlserver_are_those_of_this_process_bit_for_bit_also_after_kill_9(
    tmp_path: Path, bundle: Bundle, broker: Mosquitto
) -> None:
    behind = mlserver.MlServer(tmp_path / "mlserver", bundle)
    behind.start()
    try:
        with run(tmp_path, bundle, broker, behind.url) as (server, device, port):
            pictures = [cv2.imencode(".png", picture(seed))[1].tobytes() for seed in range(6)]
            sent = [device.send(data) for data in pictures]
            for correlation, data in zip(sent, pictures, strict=True):
                answer = device.wait(correlation)
                assert isinstance(answer, Answer)
                assert answer.scores == scores(bundle, data)
            assert health(port) == ""
            behind.kill()
            refused = device.ask(GOOD)
            assert isinstance(refused, Rejection) and refused.reason == "busy"
            assert behind.url in health(port)
            behind.start()
            again = device.ask(pictures[0])
            assert isinstance(again, Answer)
            assert again.scores == scores(bundle, pictures[0])
            assert health(port) == ""
            counts, _ = server.stop()
            assert (counts["answers"], counts["refusals"]) == (7, {"busy": 1})
    finally:
        behind.kill()


@needs_mlserver
def test_detections_through_mlserver_are_those_of_this_process_bit_for_bit(tmp_path: Path) -> None:
    bundle = Bundle(detector_bundle(tmp_path / "squares"))
    behind = mlserver.MlServer(tmp_path / "mlserver", bundle)
    behind.start()
    try:
        local, remote = (load_full(bundle, "cpu", 1, remote=one) for one in (None, V2Model(behind.url, bundle)))
        for scene in footage(3):
            data = cv2.imencode(".png", scene)[1].tobytes()
            own, other = (one.run([one.prepare(data)], [None])[0] for one in (local, remote))
            assert all(getattr(own, name).tobytes() == getattr(other, name).tobytes()
                       for name in ("boxes", "labels", "scores"))  # fmt: skip
    finally:
        behind.kill()


def test_a_v2_server_that_comes_late_hangs_and_goes_costs_answers_and_nothing_else(
    tmp_path: Path, bundle: Bundle, broker: Mosquitto
) -> None:
    behind = V2Server(bundle.path("full"))
    behind.port = free_port()
    with run(tmp_path, bundle, broker, behind.url) as (server, device, port):
        assert "each request tries again" in server.log()
        early = device.ask(GOOD)
        assert isinstance(early, Rejection) and early.reason == "busy"
        assert behind.url in health(port)
        behind.start()
        assert isinstance(device.ask(GOOD), Answer)
        assert health(port) == ""
        behind.holds.clear()
        late = [device.send(GOOD) for _ in range(20)]
        until(lambda: behind.most == 16)  # max_batch
        behind.holds.set()
        assert [reply for reply in map(device.wait, late) if not isinstance(reply, Answer)] == [], server.log()
        behind.stop()
        gone = device.ask(GOOD)
        assert isinstance(gone, Rejection) and gone.reason == "busy"
        counts, seconds = server.stop()
        assert seconds < 10
        assert counts["answers"] == 21
