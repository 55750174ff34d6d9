"""The embedded broker: MQTT 5 without anything to install, for one machine.

It is rumqttd, a broker in Rust, as the ``iotcore`` wheel brings it. It has no access lists, so whoever reaches its
port may read and send everything; a deployment with more than one machine uses a broker of its own.
"""

from __future__ import annotations

import ipaddress
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from shared.extras import how_to_install
from shared.link import Address
from shared.protocol import MAX_PICTURE
from shared.refusal import Refusal

if TYPE_CHECKING:
    from iotcore import Broker

log = logging.getLogger(__name__)

# iotcore's own options start an MQTT 3.1.1 listener; version 5 is only to be had through a file. A message above
# max_payload_size, 20 kB unless told, costs its sender the connection. Every topic filter that was ever subscribed
# to keeps a log of max_segment_count segments in memory: 10 MB x 10 came to 620 MB with a dozen devices that pulled
# models, 2 MB x 4 to 200 MB, and neither lost one of 200 chunks sent at once to a slow reader.
_CONFIG = """\
id = 0

[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 2000000
max_segment_count = 4

[v5.1]
name = "cachenet"
listen = "{listen}:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = {payload}
max_inflight_count = 100
dynamic_filters = true
"""


class BrokerError(Refusal):
    """The embedded broker cannot run like this; the message says what to do."""


class EmbeddedBroker:
    """A broker in a child process. The child watches a pipe from this process and ends with it, however that ends."""

    def __init__(self, listen: str, port: int) -> None:
        """``listen`` is an IPv4 address of this machine. Raises ``BrokerError``."""
        try:
            self._listen = ipaddress.IPv4Address(listen)
        except ValueError:
            raise BrokerError(f"--listen {listen}: not an IPv4 address, such as 127.0.0.1 or 0.0.0.0") from None
        self._port = port
        self._broker: Broker | None = None

    @property
    def address(self) -> Address:
        """Where a client on this machine finds it."""
        return Address("127.0.0.1" if self._listen.is_unspecified else str(self._listen), self._port)

    def start(self) -> None:
        """Return as soon as it accepts connections. Raises ``BrokerError``."""
        try:
            from iotcore import Broker
        except ImportError:
            raise BrokerError(
                f"the embedded broker needs iotcore: give --broker mqtt://host, or {how_to_install('cloud')}"
            ) from None
        if not self._listen.is_loopback:
            log.warning("the embedded broker has no access control: anyone who reaches port %d may use it", self._port)
        try:
            with tempfile.TemporaryDirectory() as directory:
                file = Path(directory) / "broker.toml"
                file.write_text(_CONFIG.format(listen=self._listen, port=self._port, payload=MAX_PICTURE + 65536))
                broker = Broker(config_path=str(file))
                broker.start()
        except (OSError, RuntimeError) as error:
            raise BrokerError(f"embedded broker: {error}; is --port {self._port} free?") from None
        self._broker = broker
        log.info("embedded broker (MQTT 5) on %s:%d", self._listen, self._port)

    def tend(self) -> None:
        """Start it again if it has ended. Clients come back by themselves and renew what was retained."""
        if self._broker is None or not self._broker.is_running:
            log.error("the embedded broker has ended; starting it again")
            try:
                self.start()
            except BrokerError as error:
                log.error(str(error))

    def stop(self) -> None:
        """End it and free the port. May be called twice."""
        if self._broker is not None:
            self._broker.stop(timeout=1.0)
