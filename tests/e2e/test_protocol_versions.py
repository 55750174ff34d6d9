"""Two versions of the protocol on one broker: each is told in one line what to update."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

import cachenet
from cachenet.edge_agent.cli import app as agent_app
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command.errors import UserError
from cachenet.shared.transport import protocol, version_1
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection
from tests.broker import Mosquitto, free_port
from tests.e2e.agents import AgentProcess, agents
from tests.e2e.servers import GOOD, Device, ServerProcess, bundle, until

__all__ = ["agents", "bundle"]

OLD = "cachenet/1"
BUDGET = [("budget-ms", "60000"), ("recent", "")]


class OldDevice:
    """A device of version 1, with the topics and messages of that version."""

    def __init__(self, port: int) -> None:
        self.messages: list[Message] = []
        topics = [(f"{OLD}/cam/answer", 0), (f"{OLD}/cam/blob/+", 0), (f"{OLD}/catalogue/#", 1)]
        self.link = MqttConnection(Address("127.0.0.1", port), "cachenet-cam", topics, self.messages.append)
        self.link.start()

    def on(self, *leaf: str) -> list[Message]:
        """Received messages by topic."""
        return [message for message in self.messages if message.topic == "/".join((OLD, *leaf))]

    def ask(self, kind: str, correlation: bytes) -> object:
        self.link.publish(
            f"{OLD}/cam/{kind}/full", GOOD, content="image/png", correlation=correlation, properties=BUDGET
        )
        until(lambda: [one for one in self.on("cam", "answer") if one.correlation == correlation], "no refusal")
        (answer,) = (one for one in self.on("cam", "answer") if one.correlation == correlation)
        return msgspec.msgpack.decode(answer.payload)


@pytest.fixture(params=["mosquitto", "embedded"])
def server(request: pytest.FixtureRequest, bundle: Bundle, tmp_path: Path) -> Iterator[tuple[ServerProcess, int]]:
    """A server of this version and its broker's port, with both brokers."""
    broker: Mosquitto | None = request.getfixturevalue("broker") if request.param == "mosquitto" else None
    port = broker.port if broker is not None else free_port()
    flags = ["--broker", broker.url] if broker is not None else ["--port", str(port)]
    running = ServerProcess(tmp_path, "--bundle", str(bundle.directory), *flags)
    running.wait_for("connected to")
    yield running, port
    running.close()


def test_a_device_of_version_1_is_refused_in_its_own_form_and_others_are_answered(
    server: tuple[ServerProcess, int], bundle: Bundle
) -> None:
    running, port = server
    old, device = OldDevice(port), Device(port, "other")
    refusal = {"type": "refusal", "reason": "unknown-model", "detail": version_1.REFUSAL}
    try:
        device.ready()
        until(lambda: old.on("catalogue", "tiny"))
        assert old.on("catalogue", "tiny")[0].payload == version_1.CATALOGUE
        assert old.ask("infer", b"question") == refusal
        assert old.ask("audit", b"audit") == refusal
        sha256 = bundle.manifest.models["base"].sha256
        request = msgspec.msgpack.encode({"sha256": sha256, "offset": 5, "length": 100})
        old.link.publish(f"{OLD}/cam/blob/get", request, qos=1)
        until(lambda: old.on("cam", "blob", sha256), "no error for a file")
        piece = msgspec.msgpack.decode(old.on("cam", "blob", sha256)[0].payload)
        assert piece == {"offset": 5, "total": 0, "data": b"", "error": version_1.REFUSAL}
        assert isinstance(device.ask(GOOD), protocol.Answer)
        assert not [message for message in old.messages if message.topic.startswith(protocol.ROOT)]
        until(lambda: "cam speaks version 1 of the protocol, this server version 2" in running.log())
        counts, _ = running.stop()
        assert counts["requests"] == counts["answers"] + sum(counts["refusals"].values())
        assert counts["refusals"] == {"unknown-model": 2}
        assert counts["lost"] == counts["malformed"] == 0
    finally:
        device.link.stop()
        old.link.stop()


def test_malformed_messages_under_the_topics_of_version_1_are_counted_and_nothing_stops(
    server: tuple[ServerProcess, int],
) -> None:
    running, port = server
    old, device = OldDevice(port), Device(port, "other")
    try:
        device.ready()
        until(old.link.connected.is_set)
        old.link.publish(f"{OLD}/cam/infer/full", GOOD, content="image/png", properties=BUDGET)
        old.link.publish(f"{OLD}/cam/infer/full", GOOD, correlation=bytes(65))
        old.link.publish(f"{OLD}/-bad name-/infer/full", GOOD, correlation=b"1")
        for payload in (b"", b"\xff" * 100, bytes(300_000), msgspec.msgpack.encode(["+/#", 0, 1])):
            old.link.publish(f"{OLD}/cam/blob/get", payload, qos=1)
        assert old.ask("infer", b"1") == msgspec.to_builtins(version_1.REJECTION)
        assert isinstance(device.ask(GOOD), protocol.Answer)
        counts, _ = running.stop()
        assert counts["malformed"] == 7
        assert "Traceback" not in running.log()
        assert len(old.on("cam", "answer")) == 1
    finally:
        device.link.stop()
        old.link.stop()


@pytest.fixture
def old_server(broker: Mosquitto, bundle: Bundle) -> Iterator[Mosquitto]:
    """A broker on which a server of version 1 has left its catalogue."""
    link = MqttConnection(Address("127.0.0.1", broker.port), "cloud-1", [], print)
    link.start()
    until(link.connected.is_set)
    assert link.round_trip(f"{OLD}/cloud-1/answer", b"", 10.0)
    link.publish(f"{OLD}/catalogue/tiny", bundle.data, qos=1, retain=True)
    assert link.round_trip(f"{OLD}/cloud-1/answer", b"", 10.0), "what came before it has arrived, too"
    yield broker
    link.stop()


def test_a_device_names_the_server_of_version_1_once_and_runs_when_it_is_updated(
    old_server: Mosquitto, bundle: Bundle, tmp_path: Path, agents: Callable[..., AgentProcess]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "0.png").write_bytes(GOOD)
    agent = agents(str(pictures), "--broker", old_server.url, "--store", str(tmp_path / "store"), "--fps", "10")
    agent.wait(lambda: version_1.OLD_SERVER in agent.log())
    running = ServerProcess(tmp_path, "--bundle", str(bundle.directory), "--broker", old_server.url)
    try:
        summary = agent.finish()
        assert summary["frames"] == 1
        assert agent.log().count(version_1.OLD_SERVER) == 1
    finally:
        running.stop(signal.SIGTERM)
        running.close()


def test_the_doctor_and_the_library_name_the_server_of_version_1(
    old_server: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "disable", lambda _: None)  # a doctor switches the log off until its process ends
    store = ["--store", str(tmp_path / "store")]
    done = CliRunner().invoke(agent_app, ["doctor", "--broker", old_server.url, "--device", "cam", *store])
    assert done.exit_code == 1
    assert f"problem  catalogue {version_1.OLD_SERVER}" in done.stdout
    with pytest.raises(UserError, match=version_1.OLD_SERVER):
        cachenet.connect(old_server.url, device="cam", store=str(tmp_path / "other"), timeout_s=5.0)
