"""The connection of a device to one of several brokers, with real brokers and a server that only says it is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachenet.edge_agent.device_link import DeviceLink
from cachenet.shared.transport import protocol
from cachenet.shared.transport.broker import Address, addresses
from cachenet.shared.transport.mqtt import Message, MqttConnection
from cachenet.shared.transport.shards import ranked
from tests.broker import Mosquitto
from tests.e2e.servers import until

pytestmark = pytest.mark.e2e

_STATUS, _ANSWER = protocol.topic("cam", "status"), protocol.topic("cam", "answer")


class Server:
    """Replies to requests for files, and retains a catalogue."""

    def __init__(self, where: Address) -> None:
        topics = [(protocol.SERVER_TOPICS[2], 0), (_STATUS, 1)]
        self.status: bytes | None = None
        self.link = MqttConnection(where, "server", topics, self._receive, self._connected)
        self.link.start()
        until(self.link.connected.is_set)

    def _connected(self) -> None:
        self.link.publish(protocol.catalogue("bundle"), b"catalogue", qos=1, retain=True)

    def _receive(self, message: Message) -> None:
        if message.topic == _STATUS:
            self.status = message.payload
            return
        asked = protocol.decode(message.payload, protocol.BlobRequest)
        reply = protocol.encode(protocol.Chunk(0, 0, b"", "no such file"))
        self.link.publish(protocol.topic("cam", "blob", asked.sha256), reply)


class Brokers:
    """Two brokers, in the order in which the device prefers them, each with a server."""

    def __init__(self, directory: Path) -> None:
        each = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            each.append(Mosquitto(directory / name))
        found = ranked(addresses(",".join(one.url for one in each)), "cam")
        self.all = sorted(each, key=lambda one: [where.port for where in found].index(one.port))
        self.addresses = found
        self.servers: dict[int, Server] = {}

    def start(self, number: int, served: bool = True) -> None:
        self.all[number].start()
        if served and number not in self.servers:
            self.servers[number] = Server(self.addresses[number])


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Brokers]:
    found = Brokers(tmp_path)
    yield found
    for server in found.servers.values():
        server.link.stop()
    for broker in found.all:
        broker.kill()


Connect = Callable[..., tuple[DeviceLink, list[Message], threading.Semaphore]]


@pytest.fixture
def connect(brokers: Brokers) -> Iterator[Connect]:
    links: list[DeviceLink] = []

    def connect(look_s: float = 0.2) -> tuple[DeviceLink, list[Message], threading.Semaphore]:
        received: list[Message] = []
        connections = threading.Semaphore(0)

        def connected() -> None:
            links[-1].publish(_STATUS, b"online", 1, retain=True)
            connections.release()

        topics = [(_ANSWER, 0), (protocol.CATALOGUE_TOPICS, 1)]
        links.append(
            DeviceLink(
                brokers.addresses,
                "cam",
                topics,
                received.append,
                connected,
                lambda: (_STATUS, b"offline"),
                (look_s, look_s),
            )
        )
        links[-1].start()
        return links[-1], received, connections

    yield connect
    for link in links:
        link.stop()


def on(link: DeviceLink, where: Address) -> Callable[[], bool]:
    return lambda: link.address == where and link.connected.is_set()


def test_a_killed_broker_is_replaced_and_used_again_when_it_returns(brokers: Brokers, connect: Connect) -> None:
    brokers.start(0)
    brokers.start(1)
    first, second = brokers.addresses
    link, received, connections = connect()
    until(on(link, first))
    assert connections.acquire(timeout=10)
    brokers.all[0].kill()
    until(on(link, second))
    assert connections.acquire(timeout=10), "the device does not say which broker it is on"
    until(lambda: brokers.servers[1].status == b"online")
    assert link.error == ""
    brokers.start(0)
    until(on(link, first))
    assert connections.acquire(timeout=10)
    until(lambda: brokers.servers[0].status == b"online")
    # The former connection still receives what is under way.
    brokers.servers[1].link.publish(_ANSWER, b"late")
    until(lambda: b"late" in [message.payload for message in received])


def test_a_device_leaves_no_status_on_a_broker_that_it_left(
    brokers: Brokers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cachenet.edge_agent.device_link._OVERLAP_S", 0.2)
    brokers.start(1)
    link, _, _ = connect()
    until(on(link, brokers.addresses[1]))
    until(lambda: brokers.servers[1].status == b"online")
    brokers.start(0)
    until(on(link, brokers.addresses[0]))
    until(lambda: brokers.servers[1].status == b"")
    assert brokers.servers[0].status == b"online"


def test_a_device_does_not_return_to_a_broker_without_a_server(brokers: Brokers, connect: Connect) -> None:
    brokers.start(1)
    link, received, _ = connect()
    until(on(link, brokers.addresses[1]))
    brokers.start(0, served=False)
    other = MqttConnection(brokers.addresses[0], "other", [], lambda _: None)
    other.start()
    until(other.connected.is_set)
    other.publish(protocol.catalogue("old"), b"old", qos=1, retain=True)
    looks = 0

    def count(_message: Message) -> None:
        nonlocal looks
        looks += 1

    watcher = MqttConnection(brokers.addresses[0], "watcher", [(protocol.topic("cam", "blob", "get"), 0)], count)
    watcher.start()
    until(lambda: looks >= 2)
    assert on(link, brokers.addresses[1])()
    assert b"old" not in [message.payload for message in received], "the catalogue of a broker that is not used"
    brokers.servers[0] = Server(brokers.addresses[0])
    until(on(link, brokers.addresses[0]))
    until(lambda: b"catalogue" in [message.payload for message in received])
    for one in (other, watcher):
        one.stop()


def test_without_any_server_a_broker_that_takes_the_connection_is_used(brokers: Brokers, connect: Connect) -> None:
    brokers.start(1, served=False)
    link, _, _ = connect()
    until(on(link, brokers.addresses[1]))


def test_a_device_connects_when_one_of_its_brokers_starts(brokers: Brokers, connect: Connect) -> None:
    link, _, _ = connect()
    assert "nothing listens there" in link.settle(10.0)
    assert not link.publish(_STATUS, b"lost")
    brokers.start(1)
    until(on(link, brokers.addresses[1]))


def test_two_devices_with_one_name_are_reported(brokers: Brokers, connect: Connect) -> None:
    brokers.start(0)
    brokers.start(1)
    link, _, _ = connect()
    until(on(link, brokers.addresses[0]))
    other = MqttConnection(brokers.addresses[0], "cachenet-cam", [], lambda _: None)
    other.start()
    until(lambda: "another device called cam" in link.error)
    other.stop()
