"""Removal of retained messages that are of no use, so that no device fills the broker with them.

A broker holds a retained message until another replaces it. mosquitto can neither limit their number for a client nor
forbid them for a topic. So the server reads all retained messages of devices every few seconds, and removes those which
no device of this project leaves. Between two readings the limit of the broker's memory bounds them (docs/deploy.md).
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter, defaultdict
from itertools import cycle

from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.transport import protocol, version_1
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection

log = logging.getLogger(__name__)

#: Time between two readings of one topic, seconds.
_PERIOD_S = 10.0
#: Time without a message after which a reading is complete, seconds.
_QUIET_S = 0.25
#: Largest number of devices that one reading logs.
_MAX_LOGGED = 5
#: Topics of a device that may be retained, and the largest size of each, bytes: of a status, names of 256 resident
#: models.
_MAX_SIZES = {"status": 32 << 10, "stats": 4 << 10}
#: Largest description for Home Assistant, bytes, and largest number for a device, one for each camera. 200 entities,
#: the most of a camera, have about 100 kB.
_MAX_CONFIG, _MAX_CONFIGS = 256 << 10, 64
#: Topics that a device publishes on, by root.
TOPICS = tuple(f"{root}/+/{leaf}" for root in (protocol.ROOT, version_1.ROOT) for leaf in protocol.DEVICE_LEAVES)
#: Topics of Home Assistant's discovery. Only on a broker with users do they belong to devices of this project alone.
DISCOVERY_TOPICS = "homeassistant/device/+/+/config"


class RetainedMessages:
    """The retained messages of one reading, which tells the useful from the others.

    Example:
        >>> RetainedMessages().superfluous("cachenet/2/cam1/status", 300)
        False
        >>> RetainedMessages().superfluous("cachenet/2/cam1/result/yard", 300)
        True
    """

    def __init__(self) -> None:
        self._configs: defaultdict[str, set[str]] = defaultdict(set)

    def superfluous(self, topic: str, size: int) -> bool:
        """Whether the message of ``size`` bytes on a topic of ``TOPICS`` or ``DISCOVERY_TOPICS`` is of no use."""
        first, _, device, *leaf = topic.split("/")
        if first != "homeassistant":
            return size > _MAX_SIZES.get("/".join(leaf), -1)
        configs = self._configs[device]
        if size > _MAX_CONFIG or (topic not in configs and len(configs) >= _MAX_CONFIGS):
            return True
        configs.add(topic)
        return False


class RetainedSweeper:
    """Reads the retained messages of a broker with a connection of its own, and removes the superfluous ones.

    Example:
        sweeper = RetainedSweeper(Address("127.0.0.1", 1883))
        sweeper.start()
        ...
        sweeper.stop()
    """

    def __init__(self, broker: Address) -> None:
        """Create a sweeper that is not yet started. Raises ``MqttError`` if the credentials cannot be used."""
        topics = TOPICS if broker.user is None else (*TOPICS, DISCOVERY_TOPICS)
        self._topics = cycle(topics)
        self._pause_s = _PERIOD_S / len(topics)
        self._broker, self._link = broker, self._connection(broker)
        self._messages, self._received = RetainedMessages(), 0
        self._removed: Counter[str] = Counter()
        self._thread = SupervisedThread("retained-messages", self._read)

    def start(self) -> None:
        self._link.start()
        self._thread.start()

    def stop(self) -> None:
        self._thread.stopping.set()
        self._link.stop()

    def _connection(self, broker: Address) -> MqttConnection:
        # One message at a time: a broker without memory cannot send many, but each that is removed gives it some.
        name = f"retained-{secrets.token_hex(4)}"
        return MqttConnection(broker, name, [], self._receive, receive_maximum=1)

    def _read(self) -> None:
        """Read the retained messages of one filter to the end, then wait."""
        if self._link.conflict:  # a broker without memory ended the connection again and again
            self._link.stop()
            self._link = self._connection(self._broker)
            self._link.start()
        if not self._link.connected.wait(_QUIET_S):
            return
        self._messages, self._removed, before = RetainedMessages(), Counter(), -1
        self._link.request_retained(next(self._topics))
        while before != self._received:
            before = self._received
            if self._thread.stopping.wait(_QUIET_S):
                return
        for device, count in self._removed.most_common(_MAX_LOGGED):
            log.warning("%d useless retained messages of %.64s were removed", count, device)
        self._thread.stopping.wait(self._pause_s)

    def _receive(self, message: Message) -> None:
        self._received += 1
        if message.retained and message.payload and self._messages.superfluous(message.topic, len(message.payload)):
            self._link.publish(message.topic, b"", retain=True)
            self._removed[message.topic.split("/")[2]] += 1
