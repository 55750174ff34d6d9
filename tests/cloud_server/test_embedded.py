"""The embedded broker has the functions that the wire protocol needs."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cachenet.cloud_server.broker import embedded as broker_module
from cachenet.cloud_server.broker.embedded import BrokerError, EmbeddedBroker
from cachenet.cloud_server.broker.mqtt_connect import Connect
from cachenet.cloud_server.broker.probe import exchange
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection
from cachenet.shared.transport.protocol import MAX_PICTURE, SERVER_TOPICS
from tests.broker import free_port, listening

pytestmark = pytest.mark.slow

_BOUND_S = 20.0


def until(condition: Callable[[], object]) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + _BOUND_S
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def embedded() -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker("127.0.0.1", free_port())
    broker.start()
    yield broker
    broker.stop()


class Client(MqttConnection):
    """A connection with its subscriptions, and the messages that it received."""

    def __init__(self, name: str, broker: Address, *topics: str, will: tuple[str, bytes] | None = None) -> None:
        self.messages: list[Message] = []
        # A message on the last subscription shows that all subscriptions are active.
        ready = f"ready/{name}"
        super().__init__(broker, name, [(topic, 1) for topic in (*topics, ready)], self.messages.append, will=will)
        self.start()
        until(self.connected.is_set)
        self.publish(ready, b"")
        until(lambda: self.messages and self.messages[-1].topic == ready)
        self.messages.pop()

    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]


@pytest.fixture
def client(embedded: EmbeddedBroker) -> Iterator[Callable[..., Client]]:
    with ExitStack() as stack:

        def connect(name: str, *topics: str, will: tuple[str, bytes] | None = None) -> Client:
            connected = Client(name, embedded.address, *topics, will=will)
            stack.callback(connected.stop)
            return connected

        yield connect


@pytest.mark.parametrize("size", [0, 21_000, 200_000, MAX_PICTURE])
def test_a_message_arrives_with_all_its_properties(client: Callable[..., Client], size: int) -> None:
    server, device = client("server", SERVER_TOPICS[0]), client("cam")
    properties = (("budget-ms", "250"), ("recent", "1 2"))
    correlation = b"\x00\xff" * 8
    device.publish(
        "cachenet/2/cam/infer/full", bytes(size), content="image/png", correlation=correlation, properties=properties
    )
    until(lambda: server.messages)
    message = server.messages[0]
    assert (len(message.payload), message.content, message.correlation) == (size, "image/png", correlation)
    assert message.properties == properties


def test_shared_subscriptions_deliver_every_message_once(client: Callable[..., Client]) -> None:
    """Each message reaches one member. After one of two members has left, all messages reach the other."""
    device, one, two = client("cam"), client("one", SERVER_TOPICS[0]), client("two", SERVER_TOPICS[0])
    sent = [b"%d" % i for i in range(300)]
    for payload in sent:
        device.publish("cachenet/2/cam/infer/full", payload)
    until(lambda: len(one.messages) + len(two.messages) >= len(sent))
    assert sorted(one.payloads() + two.payloads()) == sorted(sent)
    two.stop()
    time.sleep(0.2)
    one.messages.clear()
    for payload in sent:
        device.publish("cachenet/2/cam/infer/full", payload)
    until(lambda: len(one.messages) >= len(sent))
    assert one.payloads() == sent


def test_every_topic_of_the_server_is_delivered(client: Callable[..., Client]) -> None:
    """rumqttd would serve only one of two filters in one shared group."""
    server, device = client("server", *SERVER_TOPICS), client("cam")
    for number in range(100):
        leaf, qos = (("blob/get", 1), ("infer/full", 0))[number % 2]
        device.publish(f"cachenet/2/cam/{leaf}", b"%d" % number, qos=qos)
    until(lambda: len(server.messages) >= 100)
    assert sorted(map(int, server.payloads())) == list(range(100))


def test_a_late_subscriber_receives_the_latest_retained_message(client: Callable[..., Client]) -> None:
    server = client("server")
    for version in (b"old" * 10_000, b"new" * 10_000):
        server.publish("cachenet/2/catalogue/tiny", version, qos=1, retain=True)
    until(lambda: client(f"late-{time.monotonic_ns()}", "cachenet/2/catalogue/#").payloads() == [b"new" * 10_000])


def test_a_will_is_published_when_a_connection_breaks_and_not_after_a_disconnect(client: Callable[..., Client]) -> None:
    observer = client("observer", "cachenet/2/+/status")
    leaver = client("leaver", will=("cachenet/2/leaver/status", b"offline"))
    leaver.stop(("cachenet/2/leaver/status", b"stopped"))
    until(lambda: observer.messages)
    breaker = client("breaker", will=("cachenet/2/breaker/status", b"offline"))
    breaker._client.socket().shutdown(2)
    until(lambda: len(observer.messages) > 1)
    assert observer.payloads() == [b"stopped", b"offline"]


def test_a_port_in_use_and_an_invalid_address_have_clear_messages(embedded: EmbeddedBroker) -> None:
    with pytest.raises(BrokerError, match="Address already in use"):
        EmbeddedBroker("127.0.0.1", embedded.address.port).start()
    with pytest.raises(BrokerError, match="not an IPv4 address"):
        EmbeddedBroker('127.0.0.1"\nid = 1', 1883)


def test_an_address_beyond_this_machine_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    broker = EmbeddedBroker("0.0.0.0", free_port())
    broker.start()
    broker.stop()
    assert "no access control" in caplog.text
    assert broker.address.host == "127.0.0.1"


def test_a_stopped_broker_frees_its_port_and_can_start_again() -> None:
    broker = EmbeddedBroker("127.0.0.1", free_port())
    for _ in range(2):
        broker.start()
        assert listening(broker.address.port)
        broker.stop()
        assert not listening(broker.address.port)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_broker_ends_with_its_parent(how: signal.Signals, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "cachenet.cloud_server", "broker", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        parent = subprocess.Popen(command, stderr=log)
    until(lambda: listening(port))
    until(lambda: b"embedded broker" in (tmp_path / "log").read_bytes())
    time.sleep(0.2)  # the signal handlers are installed after the log line
    os.kill(parent.pid, how)
    assert parent.wait(_BOUND_S) == (-how if how == signal.SIGKILL else 0)
    until(lambda: not listening(port))


def connect_packet(client_id: str) -> bytes:
    """MQTT 5, clean start, keep alive 60 s."""
    return Connect(5, "", b"\0\4MQTT\5\2\0\x3c\0", b"").renamed(client_id)


def reply(broker: EmbeddedBroker, *packets: bytes) -> bytes:
    """All data that the broker sends to a client that sends ``packets``, until the connection ends."""
    with socket.create_connection(("127.0.0.1", broker.address.port), _BOUND_S) as sock:
        for packet in packets:
            sock.sendall(packet)
        received = b""
        while part := sock.recv(1000):
            received += part
        return received


def test_an_mqtt_3_client_receives_the_refusal_code_and_the_log_has_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    broker = EmbeddedBroker("127.0.0.1", free_port())
    broker.start()
    try:
        for version in 3 * ("mqttv311", "mqttv31"):
            flags = ["-p", str(broker.address.port), "-t", "a", "-W", "10", "-V", version, "-i", f"old-{version}"]
            done = subprocess.run(["mosquitto_sub", *flags], capture_output=True, text=True, timeout=60, check=False)
            assert "unacceptable protocol version" in done.stderr
    finally:
        broker.stop()
    logged = capfd.readouterr().err
    for version, name in (("mqttv311", "3.1.1"), ("mqttv31", "3.1")):
        lines = [line for line in logged.splitlines() if f"'old-{version}'" in line]
        assert len(lines) == 1
        assert f"MQTT {name} " in lines[0] and "-V mqttv5" in lines[0]


def test_mosquitto_clients_work_with_mqtt_5(embedded: EmbeddedBroker) -> None:
    flags = ["-p", str(embedded.address.port), "-t", "say/it", "-V", "mqttv5"]
    listening = subprocess.Popen(["mosquitto_sub", *flags, "-C", "1", "-W", "20"], stdout=subprocess.PIPE, text=True)
    while listening.poll() is None:
        subprocess.run(["mosquitto_pub", *flags, "-m", "hello"], check=True, timeout=60)
        time.sleep(0.1)
    assert listening.communicate(timeout=60)[0] == "hello\n"


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0", b"\x10\xff\xff\xff\x7f", b"\x10\0"])
def test_a_connection_without_mqtt_is_closed_at_once(sent: bytes, embedded: EmbeddedBroker) -> None:
    assert reply(embedded, sent) == b""
    assert exchange(embedded.address, _BOUND_S) == ""


def test_invalid_connections_do_not_break_the_broker(embedded: EmbeddedBroker) -> None:
    """Refused ids, clients that end before the reply, and unexpected packets; each once broke rumqttd."""
    for _ in range(3):
        assert reply(embedded, connect_packet("a/b")) == b"\x20\x03\0\x85\0"
        early = socket.create_connection(("127.0.0.1", embedded.address.port), _BOUND_S)
        early.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        early.sendall(connect_packet("early"))
        early.close()
        reply(embedded, connect_packet("odd"), b"\x20\x03\0\0\0")
    for _ in range(3):
        assert exchange(embedded.address, _BOUND_S) == ""


def test_idle_connections_do_not_keep_other_clients_out(embedded: EmbeddedBroker) -> None:
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", embedded.address.port), _BOUND_S))
            for _ in range(300)
        ]
        assert exchange(embedded.address, _BOUND_S) == ""
        for sock in idle:  # the relay closes each of them
            sock.settimeout(_BOUND_S)
            assert sock.recv(1) == b""


def test_a_first_packet_that_arrives_slowly_is_accepted(embedded: EmbeddedBroker) -> None:
    with socket.create_connection(("127.0.0.1", embedded.address.port), _BOUND_S) as sock:
        for byte in connect_packet("slow"):
            sock.sendall(bytes([byte]))
            time.sleep(0.01)
        assert sock.recv(2)[:1] == b"\x20"


def test_a_client_whose_session_is_taken_over_is_notified_and_its_will_is_published(
    client: Callable[..., Client], embedded: EmbeddedBroker
) -> None:
    observer = client("observer-of-wills", "cachenet/2/+/status")
    will = ("cachenet/2/twin/status", b"offline")
    client("twin", will=will)
    with socket.create_connection(("127.0.0.1", embedded.address.port), _BOUND_S) as second:
        second.sendall(connect_packet("twin"))
        assert second.recv(2)[:1] == b"\x20"
        until(lambda: will in [(message.topic, message.payload) for message in observer.messages])
    with socket.create_connection(("127.0.0.1", embedded.address.port), _BOUND_S) as sock:
        sock.sendall(connect_packet("bare-twin"))
        sock.recv(1000)
        with socket.create_connection(("127.0.0.1", embedded.address.port), _BOUND_S) as other:
            other.sendall(connect_packet("bare-twin"))
            assert sock.recv(1000) == b"\xe0\x02\x8e\x00"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedBroker]:
    """A broker with a short probe interval."""
    monkeypatch.setattr(broker_module, "PROBE_S", 0.2)
    monkeypatch.setattr(broker_module, "PROBE_TIMEOUT_S", 1.0)
    broker = EmbeddedBroker("127.0.0.1", free_port())
    broker.start()
    yield broker
    broker.stop()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["ended", "unresponsive"])
def test_a_broker_that_ended_or_does_not_respond_is_restarted_and_clients_reconnect(
    how: signal.Signals, quick: EmbeddedBroker
) -> None:
    one, two = Client("one", quick.address, "a/#"), Client("two", quick.address)
    try:
        process = quick._process
        assert process is not None
        os.kill(process.pid, how)
        until(lambda: quick.error)
        until(lambda: quick.restarts == 1 and not quick.error)
        assert process.poll() is not None
        until(lambda: two.publish("a/b", b"after") and one.payloads())
    finally:
        one.stop()
        two.stop()


def test_a_working_broker_is_not_restarted(quick: EmbeddedBroker) -> None:
    process = quick._process
    time.sleep(2)
    assert (quick.restarts, quick.error) == (0, "")
    assert quick._process is process
