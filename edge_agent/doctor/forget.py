"""Removal of a device's retained messages from the broker."""

from __future__ import annotations

import threading

import msgspec

from cachenet.edge_agent.outputs import home_assistant
from cachenet.shared.transport import protocol, version_1
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection, MqttError

#: Longest wait for a connection, seconds.
_CONNECT_TIMEOUT_S = 3.0
#: Longest wait for the deletion of retained messages, seconds.
_DELETE_TIMEOUT_S = 5.0
#: Time without a message after which all retained messages have arrived, seconds.
_QUIET_S = 1.0
#: Time within which a running device reconnects after the loss of its connection, seconds.
_RECONNECT_S = 6.0


def forget(address: Address, device: str, prefix: str) -> list[str]:
    """Delete all retained messages of a device: its status, and all its cameras, past ones too, in Home Assistant.

    The status that it had under version 1 of the protocol is deleted, too.

    Args:
        prefix: Prefix of Home Assistant's discovery topics.

    Returns:
        The emptied topics.

    Raises:
        MqttError: There is no broker, it refuses the deletion, or the device is online and would publish again.
    """
    session = _Session(address, f"cachenet-{device}-forget", device, prefix)
    if not session.begin() and address.user is not None:
        # A broker may admit a device's user only under the device's own client id, which disconnects the device.
        session = _Session(address, f"cachenet-{device}", device, prefix)
        session.begin()
        session.quiet_s = _RECONNECT_S
    try:
        return session.clear()
    finally:
        session.link.stop()


class _Session:
    """One connection to the broker, and the device's retained messages."""

    def __init__(self, address: Address, client_id: str, device: str, prefix: str) -> None:
        self.quiet_s = _QUIET_S
        self._device, self._status = device, protocol.topic(device, "status")
        self._retained: dict[str, bytes] = {}
        self._condition = threading.Condition()
        self._connections = 0
        old = protocol.topic(device, "status", root=version_1.ROOT)
        topics = [(self._status, 1), (old, 1), (home_assistant.config_topic(prefix, device, "+"), 1)]
        self.link = MqttConnection(address, client_id, topics, self._receive, self._connected)

    def begin(self) -> bool:
        """Connect; returns whether that succeeded."""
        self.link.start()
        if connected := self.link.connected.wait(_CONNECT_TIMEOUT_S):
            return connected
        self.link.stop()
        return False

    def clear(self) -> list[str]:
        if not self._connections:
            raise MqttError(self.link.error.removesuffix("; trying again"))
        with self._condition:
            while self._connections == 1 and self._condition.wait(self.quiet_s):
                pass
            found = sorted(self._retained)
        if self._connections > 1 or self._online():
            raise MqttError(f"{self._device} is online and would publish again; stop it first")
        for topic in found:
            self.link.publish(topic, b"", qos=1, retain=True)
        with self._condition:
            if not self._condition.wait_for(lambda: not self._retained, _DELETE_TIMEOUT_S):
                raise MqttError(f"the broker keeps {', '.join(sorted(self._retained))}; may this user write there?")
        return found

    def _online(self) -> bool:
        try:
            return msgspec.json.decode(self._retained.get(self._status, b""), type=protocol.Status).state == "online"
        except msgspec.DecodeError:
            return False

    def _receive(self, message: Message) -> None:
        with self._condition:
            if message.payload:
                self._retained[message.topic] = message.payload
            else:
                self._retained.pop(message.topic, None)
            self._condition.notify()

    def _connected(self) -> None:
        with self._condition:
            self._connections += 1
            self._condition.notify()
