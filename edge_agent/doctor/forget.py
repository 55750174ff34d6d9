"""Forgetting a device: what it has left on the broker for those who come later goes away."""

from __future__ import annotations

import threading

import msgspec

from cachenet.edge_agent.outputs import home_assistant
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection, MqttError

#: Seconds that the broker may take to be there, and to let go of what it is told to.
_CONNECT_S, _GONE_S = 3.0, 5.0
#: After so long without a word it has said what it holds.
_QUIET_S = 1.0
#: Within this a device comes back that has lost its connection.
_RETURN_S = 6.0


def forget(address: Address, device: str, prefix: str) -> list[str]:
    """Take back all that ``device`` has retained: its status, and its cameras in Home Assistant under ``prefix``, even
    those that it has not any more. The topics that were emptied. Raises ``MqttError`` if there is no broker, if the
    broker will not have it, or if the device is online and would say it all again."""
    visit = _Visit(address, f"cachenet-{device}-forget", device, prefix)
    if not visit.begin() and address.user is not None:
        # A broker may let a device's user in under the device's own name only, and the last to come has the connection.
        visit = _Visit(address, f"cachenet-{device}", device, prefix)
        visit.begin()
        visit.quiet_s = _RETURN_S
    try:
        return visit.clear()
    finally:
        visit.link.stop()


class _Visit:
    """One connection to the broker, and what that holds of the device."""

    def __init__(self, address: Address, client_id: str, device: str, prefix: str) -> None:
        self.quiet_s = _QUIET_S
        self._device, self._status = device, protocol.topic(device, "status")
        self._held: dict[str, bytes] = {}
        self._news = threading.Condition()
        self._connections = 0
        topics = [(self._status, 1), (home_assistant.config_topic(prefix, device, "+"), 1)]
        self.link = MqttConnection(address, client_id, topics, self._receive, self._connected)

    def begin(self) -> bool:
        """Connect; whether that worked out."""
        self.link.start()
        if there := self.link.connected.wait(_CONNECT_S):
            return there
        self.link.stop()
        return False

    def clear(self) -> list[str]:
        if not self._connections:
            raise MqttError(self.link.trouble.removesuffix("; trying again"))
        with self._news:
            while self._connections == 1 and self._news.wait(self.quiet_s):
                pass
            found = sorted(self._held)
        if self._connections > 1 or self._online():
            raise MqttError(f"{self._device} is online and would say all of it again; stop it first")
        for topic in found:
            self.link.publish(topic, b"", qos=1, retain=True)
        with self._news:
            if not self._news.wait_for(lambda: not self._held, _GONE_S):
                raise MqttError(f"the broker keeps {', '.join(sorted(self._held))}; may this user write there?")
        return found

    def _online(self) -> bool:
        try:
            return msgspec.json.decode(self._held.get(self._status, b""), type=protocol.Status).state == "online"
        except msgspec.DecodeError:
            return False

    def _receive(self, message: Message) -> None:
        with self._news:
            if message.payload:
                self._held[message.topic] = message.payload
            else:
                self._held.pop(message.topic, None)
            self._news.notify()

    def _connected(self) -> None:
        with self._news:
            self._connections += 1
            self._news.notify()
