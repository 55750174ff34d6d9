"""A server process with a bundle of detectors, with both brokers, asked by a device and by the agent's own client."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from cachenet.cloud_server.cli import app
from cachenet.edge_agent.remote import POSTED, CloudClient
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.detections import Detections
from cachenet.shared.cascade.detect.types import SceneFrame, SceneMiss, ScenePrediction, SceneReply
from cachenet.shared.inference.image import encode, wire_picture
from cachenet.shared.media.pictures import decode
from cachenet.shared.media.signature import sign
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection
from cachenet.shared.transport.protocol import Answer, DetectionAnswer, Rejection, Timing
from tests.broker import Mosquitto, free_port, mosquitto
from tests.detectors import detector_bundle, footage, local_detector
from tests.e2e.servers import Device, ServerProcess, until

__all__ = ["mosquitto"]

#: Two squares, nothing, and five squares that overlap in part; larger than 64 pixels, so sent as JPEG.
SCENES = [*footage(1), np.zeros((192, 256, 3), np.uint8), *footage(1, squares=5)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(detector_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module", params=["mosquitto", "embedded"])
def served(
    request: pytest.FixtureRequest, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, int]]:
    """A server of ``bundle`` and its broker's port, with both brokers."""
    broker: Mosquitto | None = request.getfixturevalue("mosquitto") if request.param == "mosquitto" else None
    port = broker.port if broker is not None else free_port()
    flags = ["--broker", broker.url] if broker is not None else ["--port", str(port)]
    server = ServerProcess(tmp_path_factory.mktemp("server"), "--bundle", str(bundle.directory), *flags)
    server.wait_for("connected to")
    yield server, port
    counts, _ = server.stop()
    assert counts["requests"] == counts["answers"] + sum(counts["refusals"].values())
    assert "Traceback" not in server.log()


@pytest.fixture
def device(served: tuple[ServerProcess, int]) -> Iterator[Device]:
    device = Device(served[1])
    device.ready()
    yield device
    device.link.stop()


def assert_equal(found: Detections, expected: Detections) -> None:
    for name in ("boxes", "labels", "scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_answers_are_the_boxes_of_the_detector_run_here(bundle: Bundle, device: Device) -> None:
    """Requests in one burst; each answer is that of its own picture, as it was sent."""
    detect = local_detector(bundle)
    pictures = [encode(picture)[1] for picture in SCENES * 3]
    sent = {device.send(data, content="image/jpeg"): data for data in pictures}
    for correlation, data in sent.items():
        reply = device.wait(correlation)
        assert isinstance(reply, DetectionAnswer), reply
        assert_equal(reply.detections(1), detect(decode(data)))
        assert (reply.model, reply.submodel) == (bundle.manifest.models["full"].sha256, "near")
        assert reply.timing.batch == 1
    assert [len(detect(picture)) for picture in SCENES[:2]] == [2, 0]


def test_bad_requests_are_refused_and_good_ones_still_answered(device: Device) -> None:
    for overrides, reason in (({}, "bad-input"), ({"model": "base"}, "unknown-model"), ({"budget_ms": 0}, "expired")):
        reply = device.ask(b"no picture" if not overrides else encode(SCENES[0])[1], **overrides)
        assert isinstance(reply, Rejection)
        assert reply.reason == reason
    assert isinstance(device.ask(encode(SCENES[0])[1], content="image/jpeg"), DetectionAnswer)


def connected(port: int, bundle: Bundle) -> tuple[MqttConnection, CloudClient]:
    """A device's connection and its client of the full model."""

    def receive(message: Message) -> None:
        cloud.receive(message)

    answers = (protocol.topic("cam", "answer"), 0)
    link = MqttConnection(Address("127.0.0.1", port), "cachenet-cam", [answers], receive)
    cloud = CloudClient(link, "cam", bundle.manifest, time.monotonic)
    link.start()
    until(link.connected.is_set)
    return link, cloud


def post(cloud: CloudClient, index: int, picture: np.ndarray) -> str:
    frame, now = SceneFrame(index, None, sign(picture), np.zeros((1, 1), bool)), time.monotonic()
    miss = SceneMiss(frame, now, now + 0.1, ScenePrediction((), 0.0, "frames", ""), "")
    return cloud.post(miss, lambda: picture).error


def test_malformed_replies_end_no_connection_and_the_valid_one_counts(broker: Mosquitto, bundle: Bundle) -> None:
    """The server of this test sends what no server should, and then an answer."""
    asked: SimpleQueue[Message] = SimpleQueue()
    server = MqttConnection(
        Address("127.0.0.1", broker.port), "cloud-x", [(topic, 1) for topic in protocol.SERVER_TOPICS], asked.put
    )
    server.start()
    until(server.connected.is_set)
    assert server.round_trip(protocol.topic("cloud-x", "answer"), b"", 10.0), "it is subscribed"
    link, cloud = connected(broker.port, bundle)
    sha256, timing = bundle.manifest.models["full"].sha256, Timing(0.0, 0.0, 0.0, 1)
    valid = DetectionAnswer.of(local_detector(bundle)(SCENES[0]), sha256, None, timing)
    replies: list[bytes] = [
        b"",
        b"\xff" * 1000,
        bytes(300_000),
        protocol.encode(Answer(bytes(4), sha256, None, timing)),
        protocol.encode(msgspec.structs.replace(valid, scores=valid.scores * 2)),
        protocol.encode(msgspec.structs.replace(valid, boxes=b"\xff" * len(valid.boxes))),
        protocol.encode(DetectionAnswer(bytes(160_000), bytes(20_000), bytes(40_000), sha256, None, timing)),
        protocol.encode(valid),
    ]
    try:
        assert post(cloud, 1, SCENES[0]) == POSTED
        correlation = asked.get(timeout=20).correlation
        for reply in replies:
            server.publish(protocol.topic("cam", "answer"), reply, correlation=correlation)
        received: list[SceneReply] = []
        until(lambda: received.extend(cloud.late()) or received)
        assert_equal(received[0].detections, valid.detections(1))
        assert link.connected.is_set() and link.error == ""
    finally:
        link.stop()
        server.stop()


def test_the_agents_client_posts_frames_and_audits_and_gets_their_objects(
    served: tuple[ServerProcess, int], bundle: Bundle
) -> None:
    link, cloud = connected(served[1], bundle)
    detect = local_detector(bundle)
    try:
        for index, picture in enumerate(SCENES):
            until(lambda index=index, picture=picture: post(cloud, index, picture) == POSTED)
        replies: list[SceneReply] = []
        until(lambda: replies.extend(cloud.late()) or len(replies) == len(SCENES))
        for reply in replies:
            sent = encode(wire_picture(SCENES[reply.frame], cloud.input))[1]
            expected = detect(decode(sent))
            assert_equal(reply.detections, expected)
            assert reply.submodel == "near"
        assert cloud.audit(9, SCENES[0])
        audited: list[SceneReply] = []
        until(lambda: audited.extend(cloud.audited()) or audited)
        assert audited[0].frame == 9 and len(audited[0].detections) == 2
    finally:
        link.stop()


def test_the_doctor_of_the_server_runs_the_detector(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "disable", lambda _: None)  # a doctor switches the log off until its process ends
    arguments = ["doctor", "--bundle", str(bundle.directory), "--port", str(free_port()), "--provider", "cpu"]
    done = CliRunner().invoke(app, arguments)
    assert "ok       model     full loads in" in done.stdout
    assert "objects in the golden picture" in done.stdout
    assert "requests a second" in done.stdout


def test_a_decoder_that_does_not_fit_ends_the_server_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "disable", lambda _: None)
    directory = detector_bundle(tmp_path / "bundle")
    manifest = directory / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"kind":"heatmap"', '"kind":"nanodet"'))
    arguments = ["--bundle", str(directory), "--broker", "mqtt://127.0.0.1:1", "--provider", "cpu"]
    for command, code in (("run", 2), ("doctor", 1)):
        done = CliRunner().invoke(app, [command, *arguments])
        assert done.exit_code == code
        assert "do not fit the decoder nanodet" in done.output
        assert "Traceback" not in done.output
