"""Connections that read the messages of a fleet: one for each broker."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from cachenet.shared.transport.mqtt import Address, Message, MqttConnection

#: Time to wait for a connection, seconds.
_CONNECT_S = 5.0
#: Time without a message after which all retained ones have come, and the longest time to wait for that, seconds.
_QUIET_S, _READ_S = 0.5, 30.0


class BrokerReader:
    """Passes messages of every broker on to ``receive``, with the number of the broker.

    Example:
        with BrokerReader(addresses, TOPICS, fleet_receive).running() as reader:
            reader.wait()
    """

    def __init__(
        self, brokers: Sequence[Address], topics: Sequence[str], receive: Callable[[int, Message], None]
    ) -> None:
        """Create connections that are not yet started. Raises ``MqttError`` if the credentials cannot be used."""
        self._receive, self._received = receive, 0.0
        #: One for each broker.
        self.links = [
            MqttConnection(
                broker,
                f"fleet-{secrets.token_hex(4)}",
                [(topic, 0) for topic in topics],
                partial(self._on_message, number),
            )
            for number, broker in enumerate(brokers)
        ]

    @contextmanager
    def running(self) -> Iterator[BrokerReader]:
        """Read while the block runs."""
        for link in self.links:
            link.start()
        try:
            yield self
        finally:
            for link in self.links:
                link.stop()

    @property
    def errors(self) -> list[str]:
        """Errors of the connections that are down, each with the broker's name."""
        return [_named(link) for link in self.links if link.error]

    def wait(self) -> bool:
        """Wait until the retained messages have come. Returns whether every broker could be reached."""
        for link in self.links:
            link.settle(_CONNECT_S)
        end, self._received = time.monotonic() + _READ_S, time.monotonic()
        while (now := time.monotonic()) < end and now - self._received < _QUIET_S:
            time.sleep(0.05)
        return not self.errors

    def _on_message(self, number: int, message: Message) -> None:
        self._received = time.monotonic()
        self._receive(number, message)


def _named(link: MqttConnection) -> str:
    """The error of a connection, which names the broker only where it could not be reached at all."""
    place, error = f"{link.address.host}:{link.address.port}", link.error.removesuffix("; trying again")
    return error if place in error else f"broker {place}: {error}"
