"""The embedded broker does what the wire protocol needs of a broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cloud_server.broker import BrokerError, EmbeddedBroker
from shared.link import Address, Link, Message
from shared.protocol import MAX_PICTURE, SERVER_TOPICS
from tests.broker import free_port, listening

_BOUND_S = 20.0


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + _BOUND_S
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def embedded() -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker("127.0.0.1", free_port())
    broker.start()
    yield broker
    broker.stop()


class Client(Link):
    """A link that keeps what it receives, connected and subscribed."""

    def __init__(self, name: str, broker: Address, *topics: str, will: tuple[str, bytes] | None = None) -> None:
        self.got: list[Message] = []
        # Its own subscription shows that those before it are in force.
        ready = f"ready/{name}"
        super().__init__(broker, name, [(topic, 1) for topic in (*topics, ready)], self.got.append, will=will)
        self.start()
        until(self.connected.is_set)
        self.publish(ready, b"")
        until(lambda: self.got and self.got[-1].topic == ready)
        self.got.pop()

    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.got]


@pytest.fixture
def client(embedded: EmbeddedBroker) -> Iterator[Callable[..., Client]]:
    with ExitStack() as stack:

        def connect(name: str, *topics: str, will: tuple[str, bytes] | None = None) -> Client:
            made = Client(name, embedded.address, *topics, will=will)
            stack.callback(made.stop)
            return made

        yield connect


@pytest.mark.parametrize("size", [0, 21_000, 200_000, MAX_PICTURE])
def test_a_message_arrives_with_all_its_properties(client: Callable[..., Client], size: int) -> None:
    server, device = client("server", SERVER_TOPICS[0]), client("cam")
    properties = (("budget-ms", "250"), ("recent", "1 2"))
    correlation = b"\x00\xff" * 8
    device.publish(
        "cachenet/1/cam/infer/full", bytes(size), content="image/png", correlation=correlation, properties=properties
    )
    until(lambda: server.got)
    got = server.got[0]
    assert (len(got.payload), got.content, got.correlation) == (size, "image/png", correlation)
    assert got.properties == properties


def test_shared_subscriptions_deliver_every_message_once(client: Callable[..., Client]) -> None:
    """To one of the members; and after one of two has left, all to the other."""
    device, one, two = client("cam"), client("one", SERVER_TOPICS[0]), client("two", SERVER_TOPICS[0])
    sent = [b"%d" % i for i in range(300)]
    for payload in sent:
        device.publish("cachenet/1/cam/infer/full", payload)
    until(lambda: len(one.got) + len(two.got) >= len(sent))
    assert sorted(one.payloads() + two.payloads()) == sorted(sent)
    two.stop()
    time.sleep(0.2)
    one.got.clear()
    for payload in sent:
        device.publish("cachenet/1/cam/infer/full", payload)
    until(lambda: len(one.got) >= len(sent))
    assert one.payloads() == sent


def test_every_topic_of_the_server_is_delivered(client: Callable[..., Client]) -> None:
    """Of two filters in one shared group rumqttd would serve only one."""
    server, device = client("server", *SERVER_TOPICS), client("cam")
    for number in range(100):
        leaf, qos = (("blob/get", 1), ("infer/full", 0))[number % 2]
        device.publish(f"cachenet/1/cam/{leaf}", b"%d" % number, qos=qos)
    until(lambda: len(server.got) >= 100)
    assert sorted(map(int, server.payloads())) == list(range(100))


def test_a_retained_message_waits_for_late_subscribers_and_is_replaced(client: Callable[..., Client]) -> None:
    server = client("server")
    for version in (b"old" * 10_000, b"new" * 10_000):
        server.publish("cachenet/1/catalogue/tiny", version, qos=1, retain=True)
    until(lambda: client(f"late-{time.monotonic_ns()}", "cachenet/1/catalogue/#").payloads() == [b"new" * 10_000])


def test_a_will_is_published_when_a_client_breaks_off_and_not_when_it_leaves(client: Callable[..., Client]) -> None:
    watcher = client("watcher", "cachenet/1/+/status")
    leaver = client("leaver", will=("cachenet/1/leaver/status", b"offline"))
    leaver.stop(("cachenet/1/leaver/status", b"stopped"))
    until(lambda: watcher.got)
    breaker = client("breaker", will=("cachenet/1/breaker/status", b"offline"))
    breaker._client.socket().shutdown(2)
    until(lambda: len(watcher.got) > 1)
    assert watcher.payloads() == [b"stopped", b"offline"]


def test_a_port_in_use_and_an_address_that_is_none_are_said_clearly(embedded: EmbeddedBroker) -> None:
    with pytest.raises(BrokerError, match="Address already in use"):
        EmbeddedBroker("127.0.0.1", embedded.address.port).start()
    with pytest.raises(BrokerError, match="not an IPv4 address"):
        EmbeddedBroker('127.0.0.1"\nid = 1', 1883)


def test_listening_beyond_this_machine_warns(caplog: pytest.LogCaptureFixture) -> None:
    broker = EmbeddedBroker("0.0.0.0", free_port())
    broker.start()
    broker.stop()
    assert "no access control" in caplog.text
    assert broker.address.host == "127.0.0.1"


def test_it_frees_its_port_and_takes_it_again() -> None:
    broker = EmbeddedBroker("127.0.0.1", free_port())
    for _ in range(2):
        broker.start()
        assert listening(broker.address.port)
        broker.stop()
        assert not listening(broker.address.port)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_its_parent(how: signal.Signals, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "cloud_server", "broker", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        parent = subprocess.Popen(command, stderr=log)
    until(lambda: listening(port))
    until(lambda: b"embedded broker" in (tmp_path / "log").read_bytes())
    time.sleep(0.2)  # between the line and the handlers is a moment in which a signal would just end it
    os.kill(parent.pid, how)
    assert parent.wait(_BOUND_S) == (-how if how == signal.SIGKILL else 0)
    until(lambda: not listening(port))
