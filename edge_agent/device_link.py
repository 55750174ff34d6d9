"""The connection of a device to one of its brokers, with fail-over to another and return to the preferred one."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence

from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.transport import protocol
from cachenet.shared.transport.backoff import Backoff
from cachenet.shared.transport.mqtt import NOT_YET, Address, Message, MqttConnection
from cachenet.shared.transport.shards import ranked
from cachenet.shared.transport.takeover import TakeoverMonitor

log = logging.getLogger(__name__)

#: Longest wait for a connection to another broker, seconds: TCP, TLS and MQTT over a slow link.
_CONNECT_S = 4.0
#: Longest wait for a server's reply over another broker, seconds.
_REPLY_S = 1.0
#: First and longest delay before another attempt when no broker of the list works, seconds.
_RETRY_S = (0.25, 4.0)
#: First and longest time between two looks for a preferred broker, seconds, and their jitter. So the devices of a
#: broker that was away for a short time return within 15 s, not all at once.
_LOOK_S, _LOOK_JITTER = (10.0, 60.0), 0.5
#: Time that the former connection stays open after a return, for replies to what was sent over it, seconds. Questions
#: have ten seconds at most.
_OVERLAP_S = protocol.MAX_BUDGET_MS["infer"] / 1000
#: Time between two checks of a connection that is being made, seconds.
_STEP_S = 0.1
#: Largest number of messages that wait until a connection is used; more are dropped. A new connection receives the
#: retained catalogues.
_MAX_HELD = 64


class DeviceLink:
    """The connection to the first broker, in the device's own order, over which a server answers.

    With one broker this is an ``MqttConnection``. With several (``shards.ranked``), a lost connection is replaced at
    once by one to the next broker. A device on another than its first broker looks now and then whether a preferred
    one works again, and returns; the old connection then stays open for the replies that are under way. A server is
    known to be there when it replies to a request for a file. Without any server, the first broker that accepts the
    connection is used.

    Example:
        link = DeviceLink(addresses("mqtt://a,mqtt://b"), "porch", [(topic, 0)], on_message)
        link.start()
        link.publish(...)
    """

    def __init__(
        self,
        brokers: Sequence[Address],
        device: str,
        subscriptions: Sequence[tuple[str, int]],
        on_message: Callable[[Message], None],
        on_connect: Callable[[], None] = lambda: None,
        will: Callable[[], tuple[str, bytes]] | None = None,
        look_s: tuple[float, float] = _LOOK_S,
    ) -> None:
        """Configure a connection; ``start`` connects. Arguments are those of ``MqttConnection``, and:

        Args:
            brokers: Addresses of the brokers, in any order, one at least.
            device: Name of the device.
            on_message: Called with one message at a time.
            on_connect: Called after each connection and each change of the broker.
            will: Returns the will of a new connection.
            look_s: First and longest time between two looks for a preferred broker, seconds.

        Raises:
            MqttError: The CA file cannot be used.
        """
        self._brokers, self._device = ranked(brokers, device), device
        self._on_message, self._on_connect, self._will = on_message, on_connect, will
        self._subscriptions = list(subscriptions)
        blobs = protocol.topic(device, "blob", "+")
        if len(self._brokers) > 1 and blobs not in (topic for topic, _ in subscriptions):
            self._subscriptions.append((blobs, 0))  # the reply by which a server is known to be there
        self._looks = Backoff(*look_s, jitter=_LOOK_JITTER)
        self._receiving = threading.RLock()
        self._lost = threading.Event()
        self._backoff = Backoff(*_RETRY_S)
        self._takeovers = {where: TakeoverMonitor(time.monotonic) for where in self._brokers}
        #: Brokers that did not work at the last attempt; they are tried after the others.
        self._failed: set[Address] = set()
        #: Former session with a broker that works, and the time at which it ends.
        self._former: tuple[_Session, float] | None = None
        self._look_at = 0.0
        self._current = self._session(self._brokers[0], held=False)
        self._thread = SupervisedThread("brokers", self._step)

    def start(self) -> None:
        """Connect in the background, now and after every loss, until ``stop``."""
        self._current.link.start()
        if len(self._brokers) > 1:
            self._thread.start()

    def settle(self, seconds: float) -> str:
        """Wait, at most ``seconds``, for the end of the first attempt with every broker; the error, empty for none."""
        if len(self._brokers) == 1:
            return self._current.link.settle(seconds)
        end = time.monotonic() + seconds
        while not self.connected.wait(0.02) and not self._backoff.failures and time.monotonic() < end:
            pass
        return self.error

    def stop(self, farewell: tuple[str, bytes] | None = None) -> None:
        """Disconnect and end the threads. ``farewell``: see ``MqttConnection.stop``."""
        self._thread.stopping.set()
        self._lost.set()
        self._thread.stop(_REPLY_S)
        self._current.link.stop(farewell)
        self._end_former()

    @property
    def connected(self) -> threading.Event:
        """Set while the connection is up. After a change of the broker this is another event."""
        return self._current.link.connected

    @property
    def address(self) -> Address:
        """Address of the present broker."""
        return self._current.link.address

    @property
    def error(self) -> str:
        """Error of the connection to the present broker; empty for none."""
        return self._current.link.error

    @property
    def conflict(self) -> str:
        """Message about another client with this id, which makes both connections unreliable; empty for none."""
        return self._current.link.conflict

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        retain: bool = False,
        content: str | None = None,
        correlation: bytes | None = None,
        properties: Sequence[tuple[str, str]] = (),
        expiry_s: int | None = None,
    ) -> bool:
        """Send a message to the present broker. See ``MqttConnection.publish``."""
        link = self._current.link
        return link.publish(topic, payload, qos, retain, content, correlation, properties, expiry_s)

    def _session(self, where: Address, held: bool) -> _Session:
        """A connection that is not started; ``held``: whether its messages wait until it is used."""
        session = _Session(self._device, held, self._pass_on, self._connected, self._lost.set)
        level = logging.DEBUG if held else logging.WARNING
        name = f"cachenet-{self._device}"
        session.link = MqttConnection(
            where,
            name,
            self._subscriptions,
            session.receive,
            session.connected,
            None if self._will is None else self._will(),
            on_loss=session.lost,
            error_level=level,
            takeovers=self._takeovers[where],
        )
        return session

    def _pass_on(self, message: Message) -> None:
        with self._receiving:
            self._on_message(message)

    def _connected(self, session: _Session) -> None:
        if session is self._current:
            self._on_connect()

    # The methods below run on the thread.

    def _step(self) -> None:
        """Replace a lost connection, return to a preferred broker when it is time, or wait."""
        self._lost.clear()  # before the state is read
        link, now = self._current.link, time.monotonic()
        if self._former is not None and (now >= self._former[1] or not self._former[0].link.connected.is_set()):
            self._end_former()
        if not link.connected.is_set() and link.error != NOT_YET and not link.conflict:
            if self._change(self._others(), link.connected.is_set):
                self._backoff.reset()
            elif not link.connected.is_set():
                self._thread.stopping.wait(self._backoff.failed())
            return
        if link.connected.is_set() and (preferred := self._brokers[: self._brokers.index(link.address)]):
            if now < self._look_at:
                self._lost.wait(min(self._look_at - now, _OVERLAP_S))
            elif not self._change(preferred, lambda: not link.connected.is_set(), answered=True):
                self._look_at = time.monotonic() + self._looks.failed()
            return
        self._lost.wait(_OVERLAP_S)

    def _others(self) -> list[Address]:
        """All brokers but the present one: those first that did not fail last time."""
        others = (where for where in self._brokers if where != self._current.link.address)
        return sorted(others, key=lambda where: where in self._failed)

    def _change(self, brokers: Sequence[Address], needless: Callable[[], bool], answered: bool = False) -> bool:
        """Use the first of ``brokers`` over which a server answers.

        Args:
            needless: Returns whether another connection is not wanted any more.
            answered: Whether a broker without a server is of no use.

        Returns:
            Whether the broker has changed.
        """
        spare: _Session | None = None
        try:
            for where in brokers:
                if self._former is not None and self._former[0].link.address == where:
                    self._end_former()  # both have one client id
                session = self._session(where, held=True)
                connected = session.connect(lambda: needless() or self._thread.stopping.is_set())
                (self._failed.discard if connected else self._failed.add)(where)
                if connected and not needless() and session.is_answered():
                    self._use(session)
                    return True
                if connected and spare is None:
                    spare = session
                else:
                    session.link.stop(wait_s=0)
                if needless() or self._thread.stopping.is_set():
                    return False
            if spare is not None and not answered:
                used, spare = spare, None
                self._use(used)
                return True
            return False
        finally:
            if spare is not None:
                spare.link.stop(wait_s=0)

    def _use(self, session: _Session) -> None:
        """Replace the present connection."""
        former, where = self._current, session.link.address
        was = former.link.address
        why = former.link.error.removesuffix("; trying again") or "it works again"
        log.warning("uses broker %s:%d in place of %s:%d: %s", where.host, where.port, was.host, was.port, why)
        session.link.error_level, self._current = logging.WARNING, session
        self._looks.reset()
        self._look_at = time.monotonic() + self._looks.failed()
        self._end_former()
        if former.link.connected.is_set():
            self._former = former, time.monotonic() + _OVERLAP_S
        else:
            self._failed.add(was)
            former.link.stop(wait_s=0)
        session.release()
        self._on_connect()

    def _end_former(self) -> None:
        """End the former session, and remove what it retains: this device is no longer there."""
        former, self._former = self._former, None
        if former is not None:
            former[0].link.stop((self._will()[0], b"") if self._will is not None else None)


class _Session:
    """A connection to one broker. Its messages wait until it is used."""

    link: MqttConnection

    def __init__(
        self,
        device: str,
        held: bool,
        on_message: Callable[[Message], None],
        on_connect: Callable[[_Session], None],
        on_loss: Callable[[], None],
    ) -> None:
        self._device, self._on_message, self._on_connect, self._on_loss = device, on_message, on_connect, on_loss
        self._held: list[Message] | None = [] if held else None
        self._lock = threading.Lock()
        #: Set when an attempt to connect has ended.
        self._ended = threading.Event()
        self._reply_topic, self._replied = "", threading.Event()

    def connect(self, needless: Callable[[], bool]) -> bool:
        """Whether the broker accepts the connection, before it is needless."""
        self.link.start()
        end = time.monotonic() + _CONNECT_S
        while not self._ended.wait(_STEP_S) and time.monotonic() < end and not needless():
            pass
        return self.link.connected.is_set()

    def is_answered(self) -> bool:
        """Whether a server replies over this broker: to a request for a file that nobody has."""
        digest = secrets.token_hex(32)
        self._reply_topic = protocol.topic(self._device, "blob", digest)
        request = protocol.encode(protocol.BlobRequest(digest, 0, 1))
        sent = self.link.publish(protocol.topic(self._device, "blob", "get"), request)
        return sent and self._replied.wait(_REPLY_S)

    def release(self) -> None:
        """Pass on what waits, and all further messages at once."""
        with self._lock:
            held, self._held = self._held or (), None
            for message in held:
                self._on_message(message)

    def connected(self) -> None:
        self._ended.set()
        self._on_connect(self)

    def lost(self) -> None:
        self._ended.set()
        self._on_loss()

    def receive(self, message: Message) -> None:
        if message.topic == self._reply_topic:
            self._replied.set()
            return
        with self._lock:
            if self._held is not None:
                if len(self._held) < _MAX_HELD:
                    self._held.append(message)
                return
        self._on_message(message)
