"""Answers, refusals and ignored messages of a server process, with both brokers."""

from __future__ import annotations

import itertools
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import crop, encode, preprocessor
from cachenet.shared.media.pictures import decode
from cachenet.shared.transport import protocol
from cachenet.shared.transport.protocol import Answer, BlobRequest, Rejection
from tests.broker import Mosquitto, free_port, mosquitto
from tests.bundles import tiny_bundle
from tests.e2e.servers import GOOD, Device, ServerProcess, bundle, picture

__all__ = ["bundle", "mosquitto"]


def bomb(width: int, height: int) -> bytes:
    """A PNG of black pixels, which decompresses to a multiple of its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    pixels = zlib.compress(bytes((width + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="module", params=["mosquitto", "embedded"])
def served(
    request: pytest.FixtureRequest, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, int]]:
    """A server of ``bundle`` and its broker's port, with both brokers."""
    if request.param == "mosquitto":
        broker: Mosquitto = request.getfixturevalue("mosquitto")
        port, flags = broker.port, ["--broker", broker.url]
    else:
        port = free_port()
        flags = ["--port", str(port)]
    server = ServerProcess(tmp_path_factory.mktemp("server"), "--bundle", str(bundle.directory), *flags)
    server.wait_for("connected to")
    yield server, port
    counts, _ = server.stop()
    assert counts["requests"] == counts["answers"] + sum(counts["refusals"].values())
    assert counts["lost"] == 0


@pytest.fixture
def device(served: tuple[ServerProcess, int]) -> Iterator[Device]:
    device = Device(served[1])
    device.ready()
    yield device
    assert isinstance(device.ask(GOOD), Answer), "the server still answers"
    assert all(len(replies) == 1 for replies in device.answers.values()), "one answer or refusal each"
    device.link.stop()


def expected(bundle: Bundle, data: bytes) -> np.ndarray:
    spec = bundle.manifest.models["full"].input
    return Session(bundle.path("full"), "cpu").run(preprocessor(spec)(crop(decode(data), spec)))[0]


def test_answers_are_the_models_logits(bundle: Bundle, device: Device) -> None:
    """Concurrent requests share batches; each answer equals the model's output for its picture alone."""
    pictures = [encode(picture(seed, side))[1] for seed, side in itertools.product(range(10), (32, 48))]
    sent = {device.send(data): data for data in pictures}
    for correlation, data in sent.items():
        reply = device.wait(correlation)
        assert isinstance(reply, Answer), reply
        assert reply.model == bundle.manifest.models["full"].sha256
        np.testing.assert_allclose(reply.logits(10), expected(bundle, data), rtol=1e-4, atol=1e-4)
        assert reply.timing.batch >= 1
        assert min(reply.timing.queued, reply.timing.decode, reply.timing.run) >= 0


def test_a_jpeg_is_answered_like_a_png(bundle: Bundle, device: Device) -> None:
    content, data = encode(picture(1, 200))
    assert content == "image/jpeg"
    reply = device.ask(data, content=content)
    assert isinstance(reply, Answer), reply
    np.testing.assert_allclose(reply.logits(10), expected(bundle, data), rtol=1e-4, atol=1e-4)


def test_recent_labels_select_the_submodel_of_their_working_set(device: Device) -> None:
    for recent, submodel in (("8 9 8 9 8 9 8 9", "vehicles"), ("3 5 7 3 5 7 3 5", "animals")):
        reply = device.ask(GOOD, properties=[("budget-ms", "60000"), ("recent", recent)])
        assert isinstance(reply, Answer), reply
        assert reply.submodel == submodel


def test_the_catalogue_is_the_retained_manifest(bundle: Bundle, device: Device) -> None:
    assert device.catalogue[0].topic == "cachenet/2/catalogue/tiny"
    assert device.catalogue[0].payload == bundle.data


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", encode(picture(1, 200))[1][:-200], GOOD[:-20], bomb(10_000, 10_000)],
    ids=["empty", "text", "truncated-jpeg", "truncated-png", "100-megapixel-png"],
)
def test_invalid_picture_data_is_refused(device: Device, data: bytes) -> None:
    reply = device.ask(data)
    assert isinstance(reply, Rejection)
    assert reply.reason == "bad-input"


def test_an_unknown_model_is_refused(device: Device) -> None:
    for model in ("base", "nonsense"):
        reply = device.ask(GOOD, model=model)
        assert isinstance(reply, Rejection)
        assert reply.reason == "unknown-model"


def test_a_request_that_is_sent_again_is_answered_once(device: Device) -> None:
    """Whatever its correlation data; without an answer it is not forgotten."""
    again = [("budget-ms", "60000"), ("id", "0" * 32)]
    assert device.ask(GOOD, properties=[("budget-ms", "0"), again[1]]).reason == "expired"  # type: ignore[union-attr]
    assert isinstance(device.ask(GOOD, properties=again), Answer)
    assert [device.ask(GOOD, properties=again).reason for _ in range(2)] == ["duplicate"] * 2  # type: ignore[union-attr]
    assert isinstance(device.ask(GOOD, properties=[again[0], ("id", "1" * 32)]), Answer)


def test_a_request_without_time_budget_is_refused(device: Device) -> None:
    reply = device.ask(GOOD, budget_ms=0)
    assert isinstance(reply, Rejection)
    assert reply.reason == "expired"


def test_a_picture_above_the_size_bound_is_refused(device: Device) -> None:
    reply = device.ask(GOOD + bytes(protocol.MAX_PICTURE))
    assert isinstance(reply, Rejection)
    assert reply.reason == "bad-input"


@pytest.mark.parametrize(
    "overrides",
    [
        {"content": None},
        {"content": "text/plain"},
        {"properties": []},
        {"properties": [("budget-ms", "soon")]},
        {"properties": [("budget-ms", "-1")]},
        {"properties": [("budget-ms", "100"), ("recent", "1 x")]},
        {"properties": [("budget-ms", "100"), ("recent", "10")]},
        {"properties": [("budget-ms", "100"), ("recent", "1 " * 17)]},
        {"model": "full/extra"},
    ],
)
def test_a_malformed_request_is_refused(device: Device, overrides: dict[str, Any]) -> None:
    refusal = device.ask(GOOD, **overrides)
    assert isinstance(refusal, Rejection)
    assert refusal.reason == "bad-input"


def test_messages_without_a_valid_sender_or_content_are_ignored(device: Device) -> None:
    """No correlation data, no valid device name, and bytes that are not a request for a chunk."""
    good = [("budget-ms", "1000")]
    for topic, correlation in (
        (protocol.topic("cam", "infer", "full"), None),
        (protocol.topic("cam", "infer", "full"), bytes(65)),
        (f"{protocol.ROOT}/-bad name-/infer/full", b"c"),
        (f"{protocol.ROOT}/catalogue/infer/full", b"c"),
    ):
        device.link.publish(topic, GOOD, content="image/png", correlation=correlation, properties=good)
    for payload in (b"", b"\xff" * 100, bytes(300_000), protocol.encode(BlobRequest("+/#", 0, 1))):
        device.link.publish(protocol.topic("cam", "blob", "get"), payload, qos=1)
    assert isinstance(device.ask(GOOD), Answer)
    assert len(device.answers) == 1
    assert device.chunks == []


def test_a_message_above_the_brokers_bound_does_not_affect_the_server(
    served: tuple[ServerProcess, int], device: Device
) -> None:
    """Some brokers drop the message, others disconnect its sender; no server receives it."""
    sender = Device(served[1], "oversized")
    sender.ready()
    sender.send(bytes(6 << 20))
    time.sleep(0.2)
    assert isinstance(device.ask(GOOD), Answer)
    sender.link.stop()


def test_a_model_file_can_be_downloaded(bundle: Bundle, device: Device) -> None:
    expected_data, sha256 = bundle.path("animals").read_bytes(), bundle.manifest.models["animals"].sha256
    received = b""
    while len(received) < len(expected_data):
        chunk = device.pull(sha256, len(received), 700)
        assert chunk.error == ""
        received += chunk.data
    assert received == expected_data
    assert device.pull(sha256, len(expected_data), 1).error
    assert device.pull("0" * 64, 0, 1).error


def test_a_full_model_with_a_fixed_batch_of_one_runs_each_request_alone(tmp_path: Path) -> None:
    bundle = Bundle(tiny_bundle(tmp_path / "bundle", seed=1, fixed_batch=True))
    port = free_port()
    server = ServerProcess(tmp_path, "--bundle", str(bundle.directory), "--port", str(port))
    device = Device(port)
    try:
        device.ready()
        replies = [device.wait(correlation) for correlation in [device.send(GOOD) for _ in range(20)]]
        assert {answer.timing.batch for answer in replies if isinstance(answer, Answer)} == {1}
        assert len({answer.scores for answer in replies if isinstance(answer, Answer)}) == 1
        counts, _ = server.stop()
        assert counts["answers"] == counts["batches"] == 20
    finally:
        device.link.stop()
        server.close()
