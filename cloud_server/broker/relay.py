"""A TCP relay in front of the embedded broker, which checks each client's first packet.

rumqttd closes the connection of an MQTT 3.1.1 client without a reply. It keeps state by client id; a connection that
ends early breaks that state, and rumqttd then accepts no more connections. The relay

- refuses MQTT 3.1.1 with the return code for that, and logs the refusal once for each client;
- forwards only complete and valid CONNECT packets, each with a client id that is new to rumqttd;
- handles session take-over itself, and notifies the older client (reason 0x8E);
- bounds the number of connections, and the time until the first packet.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cachenet.cloud_server.broker.mqtt_connect import BadConnect, Connect, length, parse

log = logging.getLogger(__name__)

#: Longest time from the connection to the complete first packet, and from that packet to the broker's reply, seconds.
FIRST_PACKET_S = 5.0
#: Largest number of connections without a complete first packet. With one more, the oldest of them is closed.
_MAX_PENDING = 128
#: Delay of a connection that takes a session over, seconds; the broker first publishes the old connection's will.
_TAKE_OVER_S = 0.1
#: Largest size of one read from a socket, bytes.
_READ_BYTES = 1 << 16
#: Largest number of clients with a warning in the log.
_MAX_WARNED = 1000
#: CONNACK of MQTT 3.1.1: unacceptable protocol version.
_CONNACK_VERSION = b"\x20\x02\x00\x01"
#: CONNACK of MQTT 5: client identifier not valid.
_CONNACK_BAD_ID = b"\x20\x03\x00\x85\x00"
#: CONNACK of MQTT 5: server busy.
_CONNACK_BUSY = b"\x20\x03\x00\x89\x00"
#: DISCONNECT of MQTT 5: session taken over.
_TAKEN_OVER = b"\xe0\x02\x8e\x00"


@dataclass(eq=False)
class _Side:
    """One end of a relayed connection: data from ``sock`` goes to ``peer.sock``."""

    sock: socket.socket
    connection: _Connection
    #: Data to send as soon as ``sock`` accepts more.
    unsent: bytes = b""
    ended: bool = False

    @property
    def peer(self) -> _Side | None:
        return self.connection.broker if self is self.connection.client else self.connection.client


@dataclass(eq=False)
class _Connection:
    """A client and, after its first packet, its connection to the broker."""

    host: str
    client: _Side = field(init=False)
    broker: _Side | None = None
    #: Data of the client from before the connection to the broker.
    received: bytearray = field(default_factory=bytearray)
    #: Whether the CONNECT packet is complete and valid.
    admitted: bool = False
    #: Client id of the CONNECT packet.
    name: str = ""
    #: Time at which the connection is closed unless it makes progress, on the clock of ``time.monotonic``.
    deadline: float = 0.0
    #: Whether the broker has replied to the CONNECT packet.
    replied: bool = False
    closed: bool = False


class Relay:
    """Relays connections from ``listener`` to the broker at ``inner``."""

    def __init__(
        self, listener: socket.socket, inner: tuple[str, int], max_connections: int, trusted_id: str = ""
    ) -> None:
        """Create a relay.

        Args:
            listener: Listening socket of the clients.
            inner: Host and port of the broker.
            max_connections: Largest number of connections.
            trusted_id: Client id that the relay does not change.
        """
        self._listener, self._inner, self._max, self._trusted_id = listener, inner, max_connections, trusted_id
        self._poll = select.epoll()
        self._sides: dict[int, _Side] = {}
        self._names: dict[str, _Connection] = {}
        #: Deadlines of connections without a first packet or a reply to it, in order.
        self._waiting: deque[tuple[float, _Connection]] = deque()
        #: Delayed calls in order: time and function.
        self._delayed: deque[tuple[float, Callable[[], None]]] = deque()
        self._count = self._pending = self._serial = 0
        self._warned: set[str] = set()

    def run(self) -> None:
        """Relay without end."""
        self._listener.setblocking(False)
        listening = self._listener.fileno()
        self._poll.register(listening, select.EPOLLIN)
        while True:
            # Deadlines are seconds, so a tick of half a second is enough.
            tick = 0.02 if self._delayed else 0.5 if self._waiting else -1
            for number, event in self._poll.poll(tick):
                if number == listening:
                    self._accept()
                    continue
                if event & select.EPOLLOUT and (side := self._sides.get(number)) is not None:
                    self._flush(side)
                if event & ~select.EPOLLOUT and (side := self._sides.get(number)) is not None:
                    self._read(side)
            if self._waiting or self._delayed:
                self._tick(time.monotonic())

    def _tick(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            self._delayed.popleft()[1]()
        while self._waiting and self._waiting[0][0] <= now:
            deadline, connection = self._waiting.popleft()
            if not connection.replied and connection.deadline <= deadline:
                self._close(connection)

    def _expect(self, connection: _Connection) -> None:
        """Close the connection in ``FIRST_PACKET_S`` unless it makes progress."""
        connection.deadline = time.monotonic() + FIRST_PACKET_S
        self._waiting.append((connection.deadline, connection))

    def _accept(self) -> None:
        try:
            sock, where = self._listener.accept()
        except OSError:  # the client has gone, or there is no free file descriptor
            time.sleep(0.01)
            return
        if self._count >= self._max:
            self._warn_once("full", f"{self._max} clients are connected, the most that the embedded broker accepts")
            _close_socket(sock, _CONNACK_BUSY)
            return
        _configure(sock)
        connection = _Connection(where[0])
        connection.client = _Side(sock, connection)
        self._count += 1
        self._pending += 1
        self._expect(connection)
        self._register(connection.client)
        if self._pending > _MAX_PENDING:
            self._close(next(each for _, each in self._waiting if not each.closed and not each.admitted))

    def _register(self, side: _Side) -> None:
        self._sides[side.sock.fileno()] = side
        self._poll.register(side.sock.fileno(), select.EPOLLIN)

    def _read(self, side: _Side) -> None:
        try:
            data = side.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        connection = side.connection
        peer = side.peer
        if not data:
            self._end(side)
        elif peer is None:
            connection.received += data
            if not connection.admitted:
                self._check_first_packet(connection)
        else:
            if side is connection.broker:
                connection.replied = True
                if connection.client.ended:
                    self._close(connection)
                    return
            self._send(peer, data)

    def _send(self, side: _Side, data: bytes) -> None:
        """Send ``data``. The peer is not read while part of ``data`` cannot be sent."""
        if side.unsent:
            side.unsent += data
            return
        try:
            sent = side.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(side.connection)
            return
        if sent < len(data):
            side.unsent = data[sent:]
            self._poll.modify(side.sock.fileno(), select.EPOLLOUT)
            if side.peer is not None and not side.peer.ended:
                self._poll.modify(side.peer.sock.fileno(), 0)

    def _flush(self, side: _Side) -> None:
        unsent, side.unsent = side.unsent, b""
        if unsent:
            self._send(side, unsent)
        if side.unsent or side.connection.closed:
            return
        peer = side.peer
        if peer is not None and peer.ended:
            self._close(side.connection)
            return
        self._poll.modify(side.sock.fileno(), select.EPOLLIN)
        if peer is not None:
            self._poll.modify(peer.sock.fileno(), select.EPOLLOUT if peer.unsent else select.EPOLLIN)

    def _end(self, side: _Side) -> None:
        """Close the other side too, after all data is sent: ``side`` has closed its connection."""
        connection, peer = side.connection, side.peer
        side.ended = True
        # rumqttd does not clean up after a client that has gone before the reply.
        awaits_reply = side is connection.client and peer is not None and not connection.replied
        if peer is None or not (peer.unsent or awaits_reply):
            self._close(connection)
        else:
            self._unregister(side)

    def _unregister(self, side: _Side) -> None:
        if self._sides.pop(side.sock.fileno(), None) is not None:
            self._poll.unregister(side.sock.fileno())

    def _check_first_packet(self, connection: _Connection) -> None:
        """Check the first packet as soon as it is complete, and admit or refuse the client."""
        received = connection.received
        try:
            size = length(bytes(received[:5]))
            if size is None or len(received) < size:
                return
            connect = parse(bytes(received[:size]))
        except BadConnect as error:
            why = "the client speaks TLS" if received[:1] == b"\x16" else str(error)
            self._warn_once(
                connection.host, f"{connection.host} is refused: not MQTT ({why}); the address must begin with mqtt://"
            )
            self._close(connection)
            return
        name = connect.client_id
        if connect.level != 5:
            what = f"client {name!r} at {connection.host}" if name else f"a client at {connection.host}"
            version = "3.1.1" if connect.level == 4 else "3.1"
            self._warn_once(
                what,
                f"{what} is refused: it speaks MQTT {version} and the embedded broker MQTT 5; "
                "set the client to MQTT 5 (mosquitto_sub and mosquitto_pub: -V mqttv5)",
            )
            self._close(connection, _CONNACK_VERSION)
        elif not connect.valid_id:
            self._warn_once(name, f"client {name!r} at {connection.host} is refused: its id has one of + # $ /")
            self._close(connection, _CONNACK_BAD_ID)
        else:
            del received[:size]
            self._admit(connection, connect)

    def _admit(self, connection: _Connection, connect: Connect) -> None:
        """Forward the first packet, after the end of an earlier connection with the same client id."""
        name = connection.name = connect.client_id
        connection.admitted = True
        self._pending -= 1
        self._serial += 1
        # rumqttd's state of a client id may be broken, so no id comes twice. rumqttd itself assigns missing ids.
        connection.received[:0] = connect.renamed(name if name in ("", self._trusted_id) else f"{name}~{self._serial}")
        earlier = self._names.get(name)
        if name:
            self._names[name] = connection
        if earlier is None:
            self._forward(connection)
        else:
            self._close(earlier, _TAKEN_OVER)
            self._poll.modify(connection.client.sock.fileno(), 0)
            self._delayed.append((time.monotonic() + _TAKE_OVER_S, lambda: self._forward(connection)))

    def _forward(self, connection: _Connection) -> None:
        if connection.closed:
            return
        try:
            sock = socket.create_connection(self._inner, 1.0)
        except OSError:
            self._close(connection)
            return
        _configure(sock)
        connection.broker = _Side(sock, connection)
        self._register(connection.broker)
        self._poll.modify(connection.client.sock.fileno(), select.EPOLLIN)
        self._expect(connection)
        self._send(connection.broker, bytes(connection.received))
        connection.received.clear()

    def _close(self, connection: _Connection, last_packet: bytes = b"") -> None:
        if connection.closed:
            return
        connection.closed = True
        self._count -= 1
        self._pending -= not connection.admitted
        if self._names.get(connection.name) is connection:
            del self._names[connection.name]
        for side in (connection.client, connection.broker):
            if side is not None:
                self._unregister(side)
        if connection.broker is not None:
            connection.broker.sock.close()
        _close_socket(connection.client.sock, last_packet if not connection.client.unsent else b"")

    def _warn_once(self, key: str, text: str) -> None:
        if key in self._warned or len(self._warned) >= _MAX_WARNED:
            return
        self._warned.add(key)
        log.warning("%s%s", text, "; further clients are not logged" if len(self._warned) == _MAX_WARNED else "")


def _configure(sock: socket.socket) -> None:
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        # Nagle's algorithm would wait for a delayed ACK: a QoS 1 exchange on loopback would take 44-88 ms, not 0.4 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _close_socket(sock: socket.socket, last_packet: bytes) -> None:
    """Send a last packet and close ``sock``. Unread data is read first, or the system would drop the packet."""
    with contextlib.suppress(OSError):
        if last_packet:
            sock.setblocking(False)
            sock.send(last_packet)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(_READ_BYTES)
    sock.close()
