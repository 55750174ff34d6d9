"""What stands before the embedded broker's port: a TCP relay that reads each client's first packet.

rumqttd closes the connection of an MQTT 3.1.1 client without a word, and a few sequences of connections leave it unable
to take any more: it keeps state by client id, which a connection that ends early leaves broken. The relay

- refuses MQTT 3.1.1 with the return code that says so, and logs it once for each client;
- passes on complete and well-formed CONNECT packets only, each with a client id that rumqttd has not seen before;
- takes a session over itself, and tells the older client so (reason 0x8E);
- bounds the connections, and the time until the first packet.
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

#: Longest time from a connection to its complete first packet, and from there to the broker's answer, seconds.
FIRST_PACKET_S = 5.0
#: Connections without a complete first packet; one more, and the oldest of them is closed.
_MAX_GREETING = 128
#: The broker publishes the will of a connection that was taken over; the next must not come before it. Seconds.
_TAKE_OVER_S = 0.1
_READ_BYTES = 1 << 16
#: Clients that are named in the log, of each kind of refusal.
_MAX_NAMED = 1000

# CONNACK of MQTT 3.1.1: unacceptable protocol version; of MQTT 5: client identifier not valid, server busy.
_CONNACK_VERSION = b"\x20\x02\x00\x01"
_CONNACK_BAD_ID = b"\x20\x03\x00\x85\x00"
_CONNACK_BUSY = b"\x20\x03\x00\x89\x00"
# DISCONNECT of MQTT 5: session taken over.
_TAKEN_OVER = b"\xe0\x02\x8e\x00"


@dataclass(eq=False)
class _Side:
    """One end of a relayed connection: what is read from ``sock`` is written to ``peer.sock``."""

    sock: socket.socket
    connection: _Connection
    #: What ``sock`` has not taken yet.
    unsent: bytes = b""
    ended: bool = False

    @property
    def peer(self) -> _Side | None:
        return self.connection.broker if self is self.connection.client else self.connection.client


@dataclass(eq=False)
class _Connection:
    """A client and, once its first packet is complete, its connection to the broker."""

    host: str
    client: _Side = field(init=False)
    broker: _Side | None = None
    #: What the client has sent before there is a connection to the broker.
    greeting: bytearray = field(default_factory=bytearray)
    #: Whether its CONNECT packet is complete and may be passed on; the client id in it.
    admitted: bool = False
    name: str = ""
    #: When it is closed unless it has come further by then, on the clock of ``time.monotonic``.
    deadline: float = 0.0
    #: Whether the broker has answered the CONNECT packet.
    answered: bool = False
    closed: bool = False


class Front:
    """Relays connections from ``listener`` to the broker at ``inner``."""

    def __init__(
        self, listener: socket.socket, inner: tuple[str, int], max_connections: int, trusted_id: str = ""
    ) -> None:
        """``trusted_id``: of a client that behaves, whose id reaches the broker as it is."""
        self._listener, self._inner, self._max, self._trusted_id = listener, inner, max_connections, trusted_id
        self._poll = select.epoll()
        self._sides: dict[int, _Side] = {}
        self._names: dict[str, _Connection] = {}
        #: Deadlines of connections that wait for their first packet or its answer, in order.
        self._waiting: deque[tuple[float, _Connection]] = deque()
        #: What is to be done later: when, and what.
        self._later: deque[tuple[float, Callable[[], None]]] = deque()
        self._count = self._greeting = self._serial = 0
        self._named: set[str] = set()

    def run(self) -> None:
        """Relay for ever."""
        self._listener.setblocking(False)
        listening = self._listener.fileno()
        self._poll.register(listening, select.EPOLLIN)
        while True:
            # A tick of half a second is enough for what has a deadline of seconds.
            tick = 0.02 if self._later else 0.5 if self._waiting else -1
            for number, event in self._poll.poll(tick):
                if number == listening:
                    self._accept()
                    continue
                if event & select.EPOLLOUT and (side := self._sides.get(number)) is not None:
                    self._flush(side)
                if event & ~select.EPOLLOUT and (side := self._sides.get(number)) is not None:
                    self._read(side)
            if self._waiting or self._later:
                self._tick(time.monotonic())

    def _tick(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            self._later.popleft()[1]()
        while self._waiting and self._waiting[0][0] <= now:
            deadline, connection = self._waiting.popleft()
            if not connection.answered and connection.deadline <= deadline:
                self._close(connection)

    def _expect(self, connection: _Connection) -> None:
        """Have the connection closed unless it has come further in ``FIRST_PACKET_S``."""
        connection.deadline = time.monotonic() + FIRST_PACKET_S
        self._waiting.append((connection.deadline, connection))

    def _accept(self) -> None:
        try:
            sock, where = self._listener.accept()
        except OSError:  # it has gone already, or there are no descriptors left
            time.sleep(0.01)
            return
        if self._count >= self._max:
            self._say_once("full", f"{self._max} clients are connected, which is all that the embedded broker takes")
            _dismiss(sock, _CONNACK_BUSY)
            return
        _prepare(sock)
        connection = _Connection(where[0])
        connection.client = _Side(sock, connection)
        self._count += 1
        self._greeting += 1
        self._expect(connection)
        self._watch(connection.client)
        if self._greeting > _MAX_GREETING:
            self._close(next(each for _, each in self._waiting if not each.closed and not each.admitted))

    def _watch(self, side: _Side) -> None:
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
            connection.greeting += data
            if not connection.admitted:
                self._greet(connection)
        else:
            if side is connection.broker:
                connection.answered = True
                if connection.client.ended:
                    self._close(connection)
                    return
            self._send(peer, data)

    def _send(self, side: _Side, data: bytes) -> None:
        """Send ``data``, or what of it cannot be sent now as soon as it can be; meanwhile the peer is not read."""
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
        """``side`` has closed its connection: so will the other, when all is sent."""
        connection, peer = side.connection, side.peer
        side.ended = True
        # rumqttd does not clean up after a client that is gone before the answer.
        awaits_answer = side is connection.client and peer is not None and not connection.answered
        if peer is None or not (peer.unsent or awaits_answer):
            self._close(connection)
        else:
            self._unwatch(side)

    def _unwatch(self, side: _Side) -> None:
        if self._sides.pop(side.sock.fileno(), None) is not None:
            self._poll.unregister(side.sock.fileno())

    def _greet(self, connection: _Connection) -> None:
        """Judge the first packet as soon as it is complete."""
        greeting = connection.greeting
        try:
            size = length(bytes(greeting[:5]))
            if size is None or len(greeting) < size:
                return
            connect = parse(bytes(greeting[:size]))
        except BadConnect as error:
            why = "it speaks TLS" if greeting[:1] == b"\x16" else str(error)
            self._say_once(connection.host, f"{connection.host} is refused: no MQTT, as mqtt:// would be ({why})")
            self._close(connection)
            return
        name = connect.client_id
        if connect.level != 5:
            what = f"client {name!r} at {connection.host}" if name else f"a client at {connection.host}"
            version = "3.1.1" if connect.level == 4 else "3.1"
            self._say_once(
                what,
                f"{what} is refused: it speaks MQTT {version} and the embedded broker MQTT 5; "
                "set the client to MQTT 5 (mosquitto_sub and mosquitto_pub: -V mqttv5)",
            )
            self._close(connection, _CONNACK_VERSION)
        elif not connect.valid_id:
            self._say_once(name, f"client {name!r} at {connection.host} is refused: an id with one of + # $ /")
            self._close(connection, _CONNACK_BAD_ID)
        else:
            del greeting[:size]
            self._admit(connection, connect)

    def _admit(self, connection: _Connection, connect: Connect) -> None:
        """Pass the first packet on, after the end of a connection of the same client id."""
        name = connection.name = connect.client_id
        connection.admitted = True
        self._greeting -= 1
        self._serial += 1
        # What rumqttd keeps under a client id may be broken: none comes twice. It makes up one for those without.
        connection.greeting[:0] = connect.renamed(name if name in ("", self._trusted_id) else f"{name}~{self._serial}")
        former = self._names.get(name)
        if name:
            self._names[name] = connection
        if former is None:
            self._forward(connection)
        else:
            self._close(former, _TAKEN_OVER)
            self._poll.modify(connection.client.sock.fileno(), 0)
            self._later.append((time.monotonic() + _TAKE_OVER_S, lambda: self._forward(connection)))

    def _forward(self, connection: _Connection) -> None:
        if connection.closed:
            return
        try:
            sock = socket.create_connection(self._inner, 1.0)
        except OSError:
            self._close(connection)
            return
        _prepare(sock)
        connection.broker = _Side(sock, connection)
        self._watch(connection.broker)
        self._poll.modify(connection.client.sock.fileno(), select.EPOLLIN)
        self._expect(connection)
        self._send(connection.broker, bytes(connection.greeting))
        connection.greeting.clear()

    def _close(self, connection: _Connection, farewell: bytes = b"") -> None:
        if connection.closed:
            return
        connection.closed = True
        self._count -= 1
        self._greeting -= not connection.admitted
        if self._names.get(connection.name) is connection:
            del self._names[connection.name]
        for side in (connection.client, connection.broker):
            if side is not None:
                self._unwatch(side)
        if connection.broker is not None:
            connection.broker.sock.close()
        _dismiss(connection.client.sock, farewell if not connection.client.unsent else b"")

    def _say_once(self, key: str, text: str) -> None:
        if key in self._named or len(self._named) >= _MAX_NAMED:
            return
        self._named.add(key)
        log.warning("%s%s", text, "; no more clients are named" if len(self._named) == _MAX_NAMED else "")


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    with contextlib.suppress(OSError):
        # Without this a QoS 1 exchange takes 44-88 ms on loopback instead of 0.4: Nagle waits for a delayed ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _dismiss(sock: socket.socket, farewell: bytes) -> None:
    """Close ``sock`` after a last packet. What it has sent is read, or the system would drop that packet."""
    with contextlib.suppress(OSError):
        if farewell:
            sock.setblocking(False)
            sock.send(farewell)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(_READ_BYTES)
    sock.close()
