"""What a server answers, refuses and passes over: a process, either broker and a device on the wire."""

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
    """A PNG of so many black pixels, compressed to next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    pixels = zlib.compress(bytes((width + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="module", params=["mosquitto", "embedded"])
def served(
    request: pytest.FixtureRequest, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, int]]:
    """A server of ``bundle`` and its broker's port, with either broker."""
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
    assert all(len(said) == 1 for said in device.answers.values()), "one answer or refusal each"
    device.link.stop()


def expected(bundle: Bundle, data: bytes) -> np.ndarray:
    spec = bundle.manifest.models["full"].input
    return Session(bundle.path("full"), "cpu").run(preprocessor(spec)(crop(decode(data), spec)))[0]


def test_answers_are_those_of_the_model(bundle: Bundle, device: Device) -> None:
    """Many at once, so that they share runs; each is what the model alone gives for that picture."""
    pictures = [encode(picture(seed, side))[1] for seed, side in itertools.product(range(10), (32, 48))]
    sent = {device.send(data): data for data in pictures}
    for correlation, data in sent.items():
        said = device.wait(correlation)
        assert isinstance(said, Answer), said
        assert said.model == bundle.manifest.models["full"].sha256
        np.testing.assert_allclose(said.logits(10), expected(bundle, data), rtol=1e-4, atol=1e-4)
        assert said.timing.batch >= 1
        assert min(said.timing.queued, said.timing.decode, said.timing.run) >= 0


def test_a_jpeg_is_answered_as_a_png_is(bundle: Bundle, device: Device) -> None:
    content, data = encode(picture(1, 200))
    assert content == "image/jpeg"
    said = device.ask(data, content=content)
    assert isinstance(said, Answer), said
    np.testing.assert_allclose(said.logits(10), expected(bundle, data), rtol=1e-4, atol=1e-4)


def test_recent_labels_lead_to_the_submodel_of_their_working_set(device: Device) -> None:
    for recent, submodel in (("8 9 8 9 8 9 8 9", "vehicles"), ("3 5 7 3 5 7 3 5", "animals")):
        said = device.ask(GOOD, properties=[("budget-ms", "60000"), ("recent", recent)])
        assert isinstance(said, Answer), said
        assert said.submodel == submodel


def test_the_catalogue_is_the_manifest_and_retained(bundle: Bundle, device: Device) -> None:
    assert device.catalogue[0].topic == "cachenet/1/catalogue/tiny"
    assert device.catalogue[0].payload == bundle.data


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", encode(picture(1, 200))[1][:-200], GOOD[:-20], bomb(10_000, 10_000)],
    ids=["empty", "text", "truncated-jpeg", "truncated-png", "100-megapixel-png"],
)
def test_what_is_no_picture_is_refused(device: Device, data: bytes) -> None:
    said = device.ask(data)
    assert isinstance(said, Rejection)
    assert said.reason == "bad-input"


def test_an_unknown_model_is_refused(device: Device) -> None:
    for model in ("base", "nonsense"):
        said = device.ask(GOOD, model=model)
        assert isinstance(said, Rejection)
        assert said.reason == "unknown-model"


def test_a_spent_budget_is_refused(device: Device) -> None:
    said = device.ask(GOOD, budget_ms=0)
    assert isinstance(said, Rejection)
    assert said.reason == "expired"


def test_a_picture_above_the_bound_is_refused(device: Device) -> None:
    said = device.ask(GOOD + bytes(protocol.MAX_PICTURE))
    assert isinstance(said, Rejection)
    assert said.reason == "bad-input"


@pytest.mark.parametrize(
    "said",
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
def test_a_malformed_request_is_refused(device: Device, said: dict[str, Any]) -> None:
    refusal = device.ask(GOOD, **said)
    assert isinstance(refusal, Rejection)
    assert refusal.reason == "bad-input"


def test_what_cannot_be_answered_is_passed_over(device: Device) -> None:
    """No correlation data, no device name, bytes that are no request for a file: none may hurt the server."""
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


def test_a_message_above_the_wire_bound_does_not_hurt_the_server(
    served: tuple[ServerProcess, int], device: Device
) -> None:
    """Some brokers drop it and others the sender; no server ever sees it."""
    sender = Device(served[1], "oversized")
    sender.ready()
    sender.send(bytes(6 << 20))
    time.sleep(0.2)
    assert isinstance(device.ask(GOOD), Answer)
    sender.link.stop()


def test_a_model_file_can_be_pulled(bundle: Bundle, device: Device) -> None:
    wanted, sha256 = bundle.path("animals").read_bytes(), bundle.manifest.models["animals"].sha256
    got = b""
    while len(got) < len(wanted):
        chunk = device.pull(sha256, len(got), 700)
        assert chunk.error == ""
        got += chunk.data
    assert got == wanted
    assert device.pull(sha256, len(wanted), 1).error
    assert device.pull("0" * 64, 0, 1).error


def test_a_full_model_of_fixed_batch_answers_one_by_one(tmp_path: Path) -> None:
    bundle = Bundle(tiny_bundle(tmp_path / "bundle", seed=1, fixed_batch=True))
    port = free_port()
    server = ServerProcess(tmp_path, "--bundle", str(bundle.directory), "--port", str(port))
    device = Device(port)
    try:
        device.ready()
        said = [device.wait(correlation) for correlation in [device.send(GOOD) for _ in range(20)]]
        assert {answer.timing.batch for answer in said if isinstance(answer, Answer)} == {1}
        assert len({answer.scores for answer in said if isinstance(answer, Answer)}) == 1
        counts, _ = server.stop()
        assert counts["answers"] == counts["batches"] == 20
    finally:
        device.link.stop()
        server.close()
