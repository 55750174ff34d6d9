"""The connection that mends itself, against a real broker."""

from __future__ import annotations

import gc
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cachenet.cloud_server.broker.embedded import EmbeddedBroker
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection, MqttError, address
from tests.broker import Mosquitto, free_port
from tests.descriptors import descriptors

pytestmark = pytest.mark.e2e

#: Longer than the longest pause between two attempts to connect.
WAIT_S = 10.0


class Inbox:
    """Collects what arrives."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self._messages: queue.Queue[Message] = queue.Queue()

    def __call__(self, message: Message) -> None:
        self.payloads.append(message.payload)
        self._messages.put(message)

    def next(self, timeout: float = WAIT_S) -> Message:
        return self._messages.get(timeout=timeout)

    def is_empty_for(self, seconds: float) -> bool:
        try:
            self._messages.get(timeout=seconds)
        except queue.Empty:
            return True
        return False


@contextmanager
def link(
    broker: Mosquitto,
    name: str,
    topic: str = "nothing",
    on_message: Callable[[Message], None] = lambda _: None,
    **more: Any,
) -> Iterator[MqttConnection]:
    connection = MqttConnection(address(broker.url), name, [(topic, 1)], on_message, **more)
    connection.start()
    try:
        yield connection
    finally:
        connection.stop()


def until(condition: Callable[[], object], seconds: float = WAIT_S) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def delivered(sender: MqttConnection, inbox: Inbox, topic: str, payload: bytes) -> bool:
    """Whether a message gets through. ``connected`` is set when the subscription is sent, not when it is granted,
    so the first may come too early."""
    for _ in range(100):
        sender.publish(topic, payload)
        if not inbox.is_empty_for(0.1):
            return True
    return False


def test_a_message_arrives_with_its_properties(broker: Mosquitto) -> None:
    inbox = Inbox()
    with link(broker, "receiver", "a/#", inbox) as receiver, link(broker, "sender") as sender:
        assert receiver.connected.wait(WAIT_S)
        assert sender.connected.wait(WAIT_S)
        assert delivered(sender, inbox, "a/first", b"")
        properties = [("budget-ms", "80"), ("recent", "1 2")]
        assert sender.publish(
            "a/b", b"\0\xff", content="image/png", correlation=b"\1", properties=properties, expiry_s=5
        )
        while (message := inbox.next()).topic == "a/first":
            pass
        assert message == Message("a/b", b"\0\xff", "image/png", b"\1", tuple(properties))
        assert isinstance(message.payload, bytes)


def test_it_connects_when_the_broker_starts_later(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    greeted: list[bool] = []
    with link(broker, "early", on_connect=lambda: greeted.append(True)) as early:
        assert until(lambda: "is it running" in early.error)
        assert not early.connected.is_set()
        broker.start()
        try:
            assert early.connected.wait(WAIT_S)
            assert until(lambda: greeted)
            assert early.error == ""
        finally:
            broker.kill()


def test_it_subscribes_again_after_a_restart_of_the_broker(broker: Mosquitto) -> None:
    inbox = Inbox()
    with link(broker, "receiver", "a/#", inbox) as receiver, link(broker, "sender") as sender:
        assert receiver.connected.wait(WAIT_S)
        assert sender.connected.wait(WAIT_S)
        assert delivered(sender, inbox, "a/b", b"before")
        broker.kill()
        assert until(lambda: not receiver.connected.is_set() and not sender.connected.is_set())
        assert receiver.error
        broker.start()
        assert receiver.connected.wait(WAIT_S)
        assert sender.connected.wait(WAIT_S)
        assert delivered(sender, inbox, "a/b", b"after")


def test_a_connection_that_has_ended_holds_no_open_file(broker: Mosquitto) -> None:
    gc.disable()  # the collector would close what has been left open, some time or other
    try:
        before = descriptors()
        for number in range(5):
            with link(broker, f"ended{number}") as ended:
                assert ended.connected.wait(WAIT_S)
        assert until(lambda: descriptors() <= before)
    finally:
        gc.enable()


@pytest.mark.parametrize("error", [OSError(9, "Bad file descriptor"), AttributeError("send")])
def test_a_message_is_dropped_while_another_thread_ends_the_connection(
    error: Exception, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    with link(broker, "ending") as ending:
        assert ending.connected.wait(WAIT_S)

        def socket_closed(*_: object, **__: object) -> None:
            raise error  # as paho does

        monkeypatch.setattr(ending._client, "publish", socket_closed)
        assert not ending.publish("a/b", b"1")
        assert not ending.round_trip("a/b", b"1", WAIT_S)
        ending.stop(("a/b", b"last"))


@pytest.mark.parametrize("qos", [0, 1])
def test_messages_published_while_disconnected_are_dropped(broker: Mosquitto, qos: int) -> None:
    inbox = Inbox()
    with link(broker, "sender") as sender:
        assert sender.connected.wait(WAIT_S)
        broker.kill()
        assert until(lambda: not sender.connected.is_set())
        for _ in range(50):
            assert not sender.publish("a/b", b"lost", qos)
        broker.start()
        with link(broker, "receiver", "a/#", inbox) as receiver:
            assert receiver.connected.wait(WAIT_S)
            assert sender.connected.wait(WAIT_S)
            assert delivered(sender, inbox, "a/b", b"kept")
            time.sleep(0.3)
            assert set(inbox.payloads) == {b"kept"}


def test_nothing_is_published_before_the_first_connection() -> None:
    lonely = MqttConnection(Address("127.0.0.1", free_port()), "lonely", [], lambda _: None)
    assert not lonely.publish("a/b", b"x", 1)


def test_exceptions_of_a_receiver_are_logged(broker: Mosquitto, caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()

    def fragile(message: Message) -> None:
        inbox(message)
        raise RuntimeError("receiver broke")

    with link(broker, "receiver", "a/#", fragile) as receiver:
        assert receiver.connected.wait(WAIT_S)
        assert delivered(receiver, inbox, "a/b", b"1")
        assert delivered(receiver, inbox, "a/b", b"2")
        assert receiver.connected.is_set()
    assert "receiver broke" in caplog.text


def test_the_will_follows_a_broken_connection_and_the_farewell_a_stopped_one(broker: Mosquitto) -> None:
    inbox, connections = Inbox(), []
    with link(broker, "watcher", "a/status", inbox):
        with link(
            broker, "device", will=("a/status", b"offline"), on_connect=lambda: connections.append(True)
        ) as device:
            assert device.connected.wait(WAIT_S)
            sock: Any = device._client.socket()
            sock.shutdown(socket.SHUT_RDWR)
            assert inbox.next().payload == b"offline"
            # The broker may say the will before the device has noticed that its connection is gone.
            assert until(lambda: len(connections) == 2)
            device.stop(("a/status", b"stopped"))
            assert inbox.next().payload == b"stopped"
        assert inbox.is_empty_for(0.3)


def test_small_messages_are_not_delayed(broker: Mosquitto) -> None:
    with link(broker, "prompt") as prompt:
        assert prompt.connected.wait(WAIT_S)
        sock: Any = prompt._client.socket()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@contextmanager
def embedded_broker(_directory: Path) -> Iterator[str]:
    broker = EmbeddedBroker("127.0.0.1", free_port())
    broker.start()
    yield f"mqtt://127.0.0.1:{broker.address.port}"
    broker.stop()


@contextmanager
def mosquitto_broker(directory: Path) -> Iterator[str]:
    broker = Mosquitto(directory)
    broker.start()
    yield broker.url
    broker.kill()


@contextmanager
def closing_broker(_directory: Path) -> Iterator[str]:
    """Accepts a client and then closes its connection without a reason, as some brokers do at a takeover."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    with listener.accept()[0] as client:
                        client.recv(1000)
                        client.sendall(b"\x20\x03\x00\x00\x00")
                        time.sleep(0.05)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"mqtt://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(
    ("start", "verb"), [(mosquitto_broker, ""), (embedded_broker, "is"), (closing_broker, "seems to be")]
)
def test_two_connections_of_one_id_log_the_conflict_once_and_back_off(
    start: Any, verb: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the broker gives the reason or not; mosquitto does in some versions."""
    accepted: list[str] = []
    text = f"another device called cam {verb}"
    with start(tmp_path) as url:
        twins = [
            MqttConnection(address(url), "cachenet-cam", [], lambda _: None, lambda name=name: accepted.append(name))  # type: ignore[misc]
            for name in "ab"
        ]
        for twin in twins:
            twin.start()
        try:
            assert until(lambda: all(text in twin.conflict for twin in twins), 60)
            # Without back-off each would connect four times a second.
            before = len(accepted)
            time.sleep(1.5)
            assert len(accepted) - before <= 3
        finally:
            for twin in twins:
                twin.stop()
    warnings = [record.getMessage() for record in caplog.records if "another device" in record.getMessage()]
    assert len(warnings) == 2


def test_one_or_two_closed_connections_are_no_conflict(broker: Mosquitto) -> None:
    """As by a doctor that connects under the device's name."""
    with link(broker, "cachenet-cam") as first:
        assert first.connected.wait(WAIT_S)
        broker.kill()
        assert until(lambda: not first.connected.is_set())
        broker.start()
        assert first.connected.wait(WAIT_S)
        assert first.conflict == ""


def test_a_connection_continues_after_an_exception_in_its_thread(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox()
    with link(broker, "hurt", "a/#", inbox) as hurt:
        assert hurt.connected.wait(WAIT_S)
        client: Any = hurt._client
        handle, calls = client._packet_handle, []

        def fail_once() -> Any:
            calls.append(True)
            if len(calls) == 1:
                raise struct.error("a packet that makes no sense")
            return handle()

        client._packet_handle = fail_once
        assert until(lambda: calls or hurt.publish("a/b", b"x", 1))
        assert until(lambda: len(calls) > 2 and hurt.connected.is_set())
        assert delivered(hurt, inbox, "a/b", b"after")
    assert caplog.text.count("the connection's thread failed") == 1


@contextmanager
def silent_host() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_it_stops_at_once_without_a_broker() -> None:
    for wait in (0.0, 0.5):
        connection = MqttConnection(Address("127.0.0.1", free_port()), "hopeful", [], lambda _: None)
        connection.start()
        time.sleep(wait)
        start = time.monotonic()
        connection.stop(("a/status", b"stopped"))
        assert time.monotonic() - start < 2


def test_it_stops_at_once_with_a_silent_host() -> None:
    with silent_host() as port:
        connection = MqttConnection(Address("127.0.0.1", port), "hopeful", [], lambda _: None)
        connection.start()
        time.sleep(0.3)
        start = time.monotonic()
        connection.stop()
        assert time.monotonic() - start < 2


def test_it_stops_at_once_while_connecting() -> None:
    """192.0.2.0/24 is reserved for documentation: packets to it vanish or are turned back."""
    connection = MqttConnection(Address("192.0.2.1", 1883), "hopeful", [], lambda _: None)
    connection.start()
    time.sleep(0.2)
    start = time.monotonic()
    connection.stop()
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://broker", Address("broker", 1883)),
        ("mqtt://broker:1884/", Address("broker", 1884)),
        ("mqtts://broker", Address("broker", 8883, tls=True)),
        ("mqtts://camera%201@broker:1", Address("broker", 1, tls=True, user="camera 1")),
        ("mqtt://[::1]:1885", Address("::1", 1885)),
    ],
)
def test_a_broker_address_is_parsed(url: str, expected: Address) -> None:
    assert address(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "broker:1883",
        "http://broker",
        "mqtt://",
        "mqtt://broker:x",
        "mqtt://broker:99999",
        "mqtt://" + 100 * "a" + ".b",
        "mqtt://server..local",
        "mqtt://local host",
        "mqtt://[::1",
        "mqtt://broker/a",
    ],
)
def test_an_invalid_broker_address_is_refused(url: str) -> None:
    with pytest.raises(MqttError):
        address(url)


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(MqttError, match="password") as refused:
        address("mqtt://me:secret@broker")
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(address("mqtt://me@broker", password="secret"))


def test_a_missing_ca_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MqttError, match="CA file"):
        MqttConnection(address("mqtts://broker", ca=tmp_path / "none.pem"), "x", [], lambda _: None)
