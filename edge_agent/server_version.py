"""Recognises servers of another version of the protocol, which this device cannot ask."""

from __future__ import annotations

import logging
import threading

from cachenet.shared.transport import protocol, version_1
from cachenet.shared.transport.mqtt import Message

log = logging.getLogger(__name__)

#: Time to wait for the catalogue of a server of this version, seconds. Retained messages arrive within a round trip.
WAIT_S = 3.0


class ServerVersion:
    """Tells whether all servers that have left a catalogue on the broker speak version 1 of the protocol.

    Brokers keep catalogues, so an old one beside a present one means nothing.
    """

    #: Topics to subscribe to, with their QoS.
    TOPICS = ((protocol.CATALOGUE_TOPICS, 1), (version_1.CATALOGUE_TOPICS, 1))

    def __init__(self) -> None:
        #: Line for the user; empty while no such server is known.
        self.error = ""
        self._current = False
        self._timer: threading.Timer | None = None

    def receive(self, message: Message) -> bool:
        """Note a message, on the connection's thread. Returns whether it is of another version's catalogue."""
        if message.topic.startswith(protocol.CATALOGUE_TOPICS[:-1]):
            self._current, self.error = True, ""
        if not message.topic.startswith(version_1.CATALOGUE_TOPICS[:-1]):
            return False
        if version_1.is_server(message.topic, message.payload) and not self._current and self._timer is None:
            self._timer = threading.Timer(WAIT_S, self._warn)
            self._timer.daemon = True
            self._timer.start()
        return True

    def stop(self) -> None:
        """End the wait for a catalogue."""
        if self._timer is not None:
            self._timer.cancel()

    def _warn(self) -> None:
        if not self._current:
            self.error = version_1.OLD_SERVER
            log.warning(self.error)
