"""One of the brokers that a server serves, and everything of the server that each broker has for itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from cachenet.cloud_server.broker.probe import PROBE_S, RoundTripProbe
from cachenet.cloud_server.broker.retained import RetainedSweeper
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.transport import protocol, version_1
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection

log = logging.getLogger(__name__)


class Shard:
    """A connection to a broker, its probe by a round trip, and the removal of useless retained messages.

    Attributes:
        where: Address of the broker.
        link: The connection.
    """

    def __init__(
        self,
        where: Address,
        name: str,
        topics: Sequence[str],
        on_message: Callable[[Shard, Message], None],
        on_connect: Callable[[Shard], None],
        own_broker: bool,
    ) -> None:
        """Create a shard that is not yet started.

        Args:
            name: Client id of the server.
            topics: Topics to subscribe to, besides those of requests.
            on_message: Called on the connection's thread with each message.
            on_connect: Called on the connection's thread after each connection.
            own_broker: Whether the broker is the embedded one, which is supervised elsewhere.

        Raises:
            MqttError: The credentials cannot be used.
        """
        self.where = where
        self._on_message, self._on_connect, self._own_broker = on_message, on_connect, own_broker
        self._probe = RoundTripProbe(protocol.topic(name, "answer"))
        self._sweeper = None if own_broker else RetainedSweeper(where)
        own = () if own_broker else (self._probe.topic,)
        subscribed = [(topic, 1) for topic in (*protocol.SERVER_TOPICS, *version_1.SERVER_TOPICS, *own, *topics)]
        self.link = MqttConnection(where, name, subscribed, self._receive, self._connected)
        self._prober = SupervisedThread("broker-round-trip", self._probe_broker)

    def start(self) -> None:
        """Connect as soon as the broker is reachable, and after each loss."""
        self.link.start()
        if self._sweeper is not None:
            self._prober.start()
            self._sweeper.start()

    def stop(self) -> None:
        """Disconnect, within two seconds."""
        self._prober.stopping.set()
        if self._sweeper is not None:
            self._sweeper.stop()
        self.link.stop()

    @property
    def error(self) -> str:
        """Why no request can come over this broker; empty if they can."""
        return self._probe.error if self.link.connected.is_set() else self.link.error

    @property
    def fault(self) -> str:
        """The last exception of a thread, as one line; empty for none."""
        return self._prober.fault

    def _probe_broker(self) -> None:
        if not self._prober.stopping.wait(PROBE_S):
            before, error = self._probe.error, self._probe.run(self.link)
            if error and not before:
                log.error("%s:%d: %s", self.where.host, self.where.port, error)

    def _connected(self) -> None:
        self._probe.connected()
        self._on_connect(self)

    def _receive(self, message: Message) -> None:
        if message.topic == self._probe.topic:
            self._probe.receive(message.payload)
        else:
            self._on_message(self, message)
