"""Clients of a deployed broker, which store the messages that they receive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from cachenet.shared.transport.mqtt import Address, Message, MqttConnection
from cachenet.shared.transport.protocol import SERVER_TOPICS
from tests.deployed import Deployed
from tests.e2e.servers import until


class Client:
    """A connection and the messages that it received."""

    def __init__(self, where: Address, client_id: str, *topics: str) -> None:
        self.messages: list[Message] = []
        self.link = MqttConnection(where, client_id, [(one, 1) for one in topics], self.messages.append)
        self.link.start()

    def topics(self) -> list[str]:
        return [message.topic for message in self.messages]

    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]


@contextmanager
def clients(*each: Client) -> Iterator[None]:
    """Stop the clients at the end."""
    with ExitStack() as stack:
        for client in each:
            stack.callback(client.link.stop)
        yield


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    broker = Deployed(tmp_path_factory.mktemp("deployed"), "cam-a", "cam-b")
    broker.start()
    yield broker
    broker.kill()


Connect = Callable[..., Client]


@pytest.fixture
def connect(deployed: Deployed) -> Iterator[Connect]:
    """Connect as a device, or as the server with its own subscriptions. The fixture stops all clients."""
    opened: list[Client] = []

    def connect(user: str, *topics: str) -> Client:
        name = f"cachenet-{user}" if user != "server" else f"cloud-{len(opened)}"
        client = Client(deployed.address(user), name, *(topics or SERVER_TOPICS))
        opened.append(client)
        until(client.link.connected.is_set, client.link.error)
        return client

    yield connect
    for client in opened:
        client.link.stop()
