"""The server as its users meet it: a process, a broker and a device on the wire."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from models import sample
from shared import protocol
from shared.bundle import Bundle, parse
from shared.engine import Session
from shared.image import crop, decode, encode, preprocessor
from shared.link import Address, Link, Message
from shared.protocol import Answer, BlobRequest, Chunk, Refusal
from shared.signing import Key, generate
from tests.broker import Mosquitto, free_port, listening, mosquitto
from tests.bundles import tiny_bundle
from tests.hampered import FROG, SHIP, TRUCK, frogs_and_ships, hampered_bundle, pictures

__all__ = ["mosquitto"]

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
                [sys.executable, "-m", "cloud_server", "run", "--provider", "cpu", "--json", *flags],
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
        self.answers: dict[bytes, list[Answer | Refusal]] = {}
        self.chunks: list[Chunk] = []
        self._numbers = itertools.count()
        self._news = threading.Condition()
        topics = [protocol.topic(name, "answer"), protocol.topic(name, "blob", "+"), protocol.CATALOGUE_TOPICS]
        self.link = Link(Address("127.0.0.1", port), name, [(topic, 1) for topic in topics], self._receive)
        self.link.start()

    def _receive(self, message: Message) -> None:
        with self._news:
            if message.topic == protocol.topic(self.name, "answer"):
                said = protocol.decode(message.payload, Answer | Refusal)
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

    def wait(self, correlation: bytes) -> Answer | Refusal:
        with self._news:
            assert self._news.wait_for(lambda: correlation in self.answers, _BOUND_S), "no answer"
            return self.answers[correlation][0]

    def ask(self, data: bytes, **said: Any) -> Answer | Refusal:
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


def bomb(width: int, height: int) -> bytes:
    """A PNG of so many black pixels, compressed to next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    pixels = zlib.compress(bytes((width + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


GOOD = encode(picture(0))[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


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
    assert isinstance(said, Refusal)
    assert said.reason == "bad-input"


def test_an_unknown_model_is_refused(device: Device) -> None:
    for model in ("base", "nonsense"):
        said = device.ask(GOOD, model=model)
        assert isinstance(said, Refusal)
        assert said.reason == "unknown-model"


def test_a_spent_budget_is_refused(device: Device) -> None:
    said = device.ask(GOOD, budget_ms=0)
    assert isinstance(said, Refusal)
    assert said.reason == "expired"


def test_a_picture_above_the_bound_is_refused(device: Device) -> None:
    said = device.ask(GOOD + bytes(protocol.MAX_PICTURE))
    assert isinstance(said, Refusal)
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
    assert isinstance(refusal, Refusal)
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


def test_a_killed_mosquitto_that_comes_back_finds_its_server(bundle: Bundle, tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    broker.start()
    server = ServerProcess(tmp_path, "--bundle", str(bundle.directory), "--broker", broker.url)
    device = Device(broker.port)
    try:
        device.ready()
        assert isinstance(device.ask(GOOD), Answer)
        broker.kill()
        until(lambda: not device.link.connected.is_set())
        device.catalogue.clear()
        broker.start()
        device.ready()
        assert isinstance(device.ask(GOOD), Answer)
        server.stop()
    finally:
        device.link.stop()
        server.close()
        broker.kill()


def test_a_killed_embedded_broker_is_started_again(bundle: Bundle, tmp_path: Path) -> None:
    port = free_port()
    server = ServerProcess(tmp_path, "--bundle", str(bundle.directory), "--port", str(port))
    device = Device(port)
    try:
        device.ready()
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        assert len(children) == 1
        os.kill(int(children[0]), signal.SIGKILL)
        until(lambda: not device.link.connected.is_set())
        device.catalogue.clear()
        device.ready()
        assert isinstance(device.ask(GOOD), Answer)
        server.stop()
        assert not listening(port)
    finally:
        device.link.stop()
        server.close()


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


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("broker", ["mosquitto", "embedded", "unreachable"])
def test_a_signal_ends_it_within_two_seconds(
    bundle: Bundle, tmp_path: Path, how: signal.Signals, broker: str, request: pytest.FixtureRequest
) -> None:
    port = free_port()
    flags = {
        "mosquitto": lambda: ["--broker", request.getfixturevalue("mosquitto").url],
        "embedded": lambda: ["--port", str(port)],
        # TEST-NET-1 of RFC 5737: nothing there answers, nor refuses.
        "unreachable": lambda: ["--broker", "mqtt://192.0.2.1"],
    }[broker]()
    server = ServerProcess(tmp_path, "--bundle", str(bundle.directory), *flags)
    try:
        server.wait_for("serving tiny" if broker == "unreachable" else "connected to")
        counts, took = server.stop(how)
        assert took < 2.0
        assert counts["requests"] == 0
    finally:
        server.close()


def test_killing_the_server_ends_its_broker_too(bundle: Bundle, tmp_path: Path) -> None:
    port = free_port()
    server = ServerProcess(tmp_path, "--bundle", str(bundle.directory), "--port", str(port))
    server.wait_for("connected to")
    server.close()
    until(lambda: not listening(port))


def refused(*arguments: str, **environment: str) -> str:
    """Run the command, which must end with 2 and one line on stderr alone; return the line."""
    ended = subprocess.run(
        [sys.executable, "-m", "cloud_server", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    assert ended.stderr.startswith("cloud-server: ")
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


def test_bad_input_is_one_line_and_exit_code_2(bundle: Bundle, mosquitto: Mosquitto, tmp_path: Path) -> None:
    good = str(bundle.directory)
    damaged = tiny_bundle(tmp_path / "damaged")
    with (damaged / "base/1/model.onnx").open("ab") as file:
        file.write(b"x")
    unknown = tmp_path / "unknown.toml"
    unknown.write_text("bundel = 'x'\n")
    assert "give --bundle" in refused("run")
    assert "is no bundle" in refused("run", "--bundle", str(tmp_path / "nowhere"))
    assert "damaged" in refused("run", "--bundle", str(damaged))
    assert "mqtt://host:port" in refused("run", "--bundle", good, "--broker", "http://localhost")
    assert "password does not belong" in refused("run", "--bundle", good, "--broker", "mqtt://a:b@localhost")
    assert "No such file" in refused(
        "run", "--bundle", good, "--broker", "mqtt://a@localhost", "--password-file", str(tmp_path / "none")
    )
    assert "No such file" in refused(
        "run", "--bundle", good, "--broker", "mqtts://localhost", "--ca", str(tmp_path / "none")
    )
    assert "Address already in use" in refused("run", "--bundle", good, "--port", str(mosquitto.port))
    assert "Address already in use" in refused("broker", "--port", str(mosquitto.port))
    assert "IPv4" in refused("run", "--bundle", good, "--listen", "localhost")
    assert "unknown key 'bundel'" in refused("run", "--config", str(unknown))
    assert "CACHENET_QUEUE" in refused("run", "--bundle", good, CACHENET_QUEUE="0")


def test_the_settings_in_force_are_printed_without_the_password(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("queue = 5\nmax_batch = 6\nthreads = 7\n")
    printed = subprocess.run(
        [sys.executable, "-m", "cloud_server", "run", "--config", str(file), "--threads", "3", "--print-config"],
        capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "CACHENET_MAX_BATCH": "4", "CACHENET_THREADS": "4", "CACHENET_PASSWORD": "s3cret"},
    )  # fmt: skip
    for line in ("queue = 5", "max_batch = 4", "threads = 3"):
        assert line in printed.stdout.splitlines()
    assert "s3cret" not in printed.stdout + printed.stderr


def test_a_submodel_is_trained_for_what_devices_see_and_recommended(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """A bundle that knows no frogs and ships, and a device that sees little else: after some hundred questions there is
    a signed submodel that answers them, the device is told to use it, and a server that starts again still has it."""
    private, public = generate(tmp_path / "keys")
    given = hampered_bundle(tmp_path / "bundle")
    (tmp_path / "data").mkdir()
    data = pictures(tmp_path / "data", 0, 500)
    flags = ["--bundle", str(given), "--broker", mosquitto.url, "--threads", "1"]
    flags += ["--specialise", "--data", str(data), "--key", str(private), "--work", str(tmp_path / "updates")]
    rows = frogs_and_ships(500, 1000).tolist()
    images = sample.load().images[:, :, :, ::-1]
    recent = " ".join(map(str, [FROG, SHIP, FROG, TRUCK] * 4))
    sent = [encode(np.ascontiguousarray(images[row]))[1] for row in rows]
    properties = [("budget-ms", "60000"), ("recent", recent)]
    server, device = ServerProcess(tmp_path, *flags), Device(mosquitto.port)
    try:
        device.ready()
        server.wait_for("ready to train")
        for number in range(330):
            assert isinstance(device.ask(sent[number % len(sent)], properties=properties), Answer)
        deadline = time.monotonic() + 120
        while len(told := device.told("hampered")) < 2:
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.1)
        news = told[1]
        assert Key(public).vouches(news.payload, protocol.signature(news.properties))
        manifest = parse(news.payload)
        (update,) = manifest.submodels()
        said = device.ask(sent[0], properties=properties)
        assert isinstance(said, Answer) and said.submodel == update
        assert device.pull(manifest.models[update].sha256, 0, 1).total == manifest.models[update].bytes
    finally:
        counts, _ = server.stop()
        server.close()
        device.link.stop()
    assert counts["answers"] == 331
    again, device = ServerProcess(tmp_path, *flags), Device(mosquitto.port, "other")
    try:
        until(lambda: [message.payload for message in device.told("hampered")][-1:] == [news.payload])
        again.wait_for("ready to train")
        assert {message.payload for message in device.told("hampered")} == {news.payload}
    finally:
        again.stop()
        again.close()
        device.link.stop()
