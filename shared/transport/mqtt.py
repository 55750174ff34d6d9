"""An MQTT 5 connection that reconnects by itself.

It queues no messages while it is disconnected: ``publish`` returns whether the message was sent on a live connection.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from cachenet.shared.transport import mqtt_errors
from cachenet.shared.transport.backoff import Backoff
from cachenet.shared.transport.broker import Address, MqttError, address, addresses, password
from cachenet.shared.transport.protocol import MAX_PICTURE
from cachenet.shared.transport.takeover import TakeoverMonitor

__all__ = ["NOT_YET", "Address", "Link", "Message", "MqttConnection", "MqttError", "address", "addresses", "password"]

log = logging.getLogger(__name__)

#: Error of a connection before its first attempt has ended.
NOT_YET = "not connected yet"
#: Keep-alive interval, seconds.
_KEEPALIVE_S = 10
#: Longest time of an attempt to connect, seconds.
_CONNECT_TIMEOUT_S = 3.0
#: First and longest delay between attempts to connect, seconds.
_RETRY_S = (0.25, 4.0)
#: First and longest delay before the network loop restarts after an exception, seconds.
_LOOP_RETRY_S = (0.25, 30.0)
#: What paho raises for a message while another thread ends its connection. A ``ValueError`` is also a message over the
#: broker's packet size.
_NOT_SENT = (AttributeError, OSError, RuntimeError, ValueError)
#: Most topics with a message on its way that was published with ``single``.
_MAX_SINGLE = 256


@dataclass(frozen=True)
class Message:
    """A received message."""

    topic: str
    payload: bytes
    content: str | None
    correlation: bytes | None
    properties: tuple[tuple[str, str], ...]
    #: Whether the broker had retained it before this subscription.
    retained: bool = False


class Link(Protocol):
    """The part of a connection that most of its users need."""

    @property
    def connected(self) -> threading.Event: ...

    def settle(self, seconds: float) -> str: ...

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
    ) -> bool: ...


class _Client(mqtt.Client):
    """paho's client, with a network thread that continues after an exception, and an end."""

    def end(self) -> None:
        """Wait for the end of the network thread, and close its sockets: paho itself waits for the garbage collector.

        Devices that had changed their broker often had over 1,024 open files, with which select(2) cannot wait.
        """
        self.loop_stop()
        self._reset_sockets()

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        backoff, logged = Backoff(*_LOOP_RETRY_S), ""
        while True:
            try:
                return super().loop_forever(timeout, retry_first_connection)
            except BaseException as error:  # noqa: PERF203
                if (text := f"{type(error).__name__}: {error}") != logged:
                    logged = text
                    log.exception("the connection's thread failed; it connects again")
                time.sleep(backoff.failed())
                with contextlib.suppress(OSError, ValueError):
                    self.reconnect()


class MqttConnection:
    """A connection to the broker, maintained by one background thread.

    Attributes:
        connected: Set while the connection is up.
    """

    def __init__(
        self,
        address: Address,
        client_id: str,
        subscriptions: Sequence[tuple[str, int]],
        on_message: Callable[[Message], None],
        on_connect: Callable[[], None] = lambda: None,
        will: tuple[str, bytes] | None = None,
        receive_maximum: int | None = None,
        on_loss: Callable[[], None] = lambda: None,
        error_level: int = logging.WARNING,
        takeovers: TakeoverMonitor | None = None,
    ) -> None:
        """Configure a connection; ``start`` connects.

        Args:
            subscriptions: Pairs of topic and QoS, renewed with each connection.
            on_message: Called on the connection's thread with each message; its exceptions are logged.
            on_connect: Called on the connection's thread after each connection; its exceptions are logged.
            will: Topic and payload that the broker publishes, retained, when the connection breaks.
            receive_maximum: Largest number of messages of QoS 1 that the broker sends before one is acknowledged; None
                for the broker's own.
            on_loss: Called on the connection's thread after each failed attempt to connect and each loss.
            error_level: Level of the log lines about errors of the connection.
            takeovers: Monitor of earlier connections of this client to this broker, too; None for a new one.

        Raises:
            MqttError: The CA file cannot be used.
        """
        self.connected = threading.Event()
        self._error = NOT_YET
        self._accepted = False  # whether the broker has accepted the present connection
        self._address = address
        self._subscriptions = list(subscriptions)
        self._on_message, self._on_connect, self._on_loss = on_message, on_connect, on_loss
        #: Level of the log lines about errors of the connection.
        self.error_level = error_level
        self._takeovers = takeovers or TakeoverMonitor(time.monotonic)
        self._conflict = ""  # message about another client with this id
        self._client_id = client_id
        client = _Client(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5)
        client.connect_timeout = _CONNECT_TIMEOUT_S
        self._receive_maximum = receive_maximum
        self._retry_s = [round(bound * random.uniform(0.8, 1.2), 3) for bound in _RETRY_S]
        client.reconnect_delay_set(*self._retry_s)  # type: ignore[arg-type]
        client.max_inflight_messages_set(100)
        client.max_queued_messages_set(1000)
        if address.user is not None:
            client.username_pw_set(address.user, address.password)
        if address.tls:
            try:
                client.tls_set_context(ssl.create_default_context(cafile=address.ca))
            except OSError as error:
                raise MqttError(f"CA file {address.ca}: {error.strerror or error}") from None
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        client.on_socket_open = self._no_delay
        client.on_connect = self._connected
        client.on_connect_fail = self._failed
        client.on_disconnect = self._disconnected
        client.on_message = self._received
        client.on_publish = self._published
        self._client = client
        self._refused = False  # whether a refused message has been logged
        self._unsent: dict[str, mqtt.MQTTMessageInfo] = {}  # by topic, of ``single``

    def start(self) -> None:
        """Connect in the background, now and after every loss, until ``stop``."""
        connection = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        connection.MaximumPacketSize = MAX_PICTURE + 65536
        if self._receive_maximum is not None:
            connection.ReceiveMaximum = self._receive_maximum
        self._client.connect_async(
            self._address.host, self._address.port, _KEEPALIVE_S, clean_start=True, properties=connection
        )
        self._client.loop_start()

    def settle(self, seconds: float) -> str:
        """Wait, at most ``seconds``, for the end of the first attempt to connect; return its error, empty for none."""
        end = time.monotonic() + seconds
        while not self.connected.wait(0.02) and self._error == NOT_YET and time.monotonic() < end:
            pass
        return self._error

    def stop(self, farewell: tuple[str, bytes] | None = None, wait_s: float = 1.0) -> None:
        """Disconnect and end the thread, within 1.5 s.

        Args:
            farewell: Topic and payload of a last message, retained, which is sent if connected.
            wait_s: Longest wait for the end of the thread, seconds.
        """
        if farewell is not None and self.connected.is_set():
            with contextlib.suppress(*_NOT_SENT):
                self._client.publish(*farewell, qos=1, retain=True).wait_for_publish(0.5)
        self._client.disconnect()
        ender = threading.Thread(target=self._client.end, daemon=True)
        ender.start()
        ender.join(wait_s)
        self.connected.clear()

    @property
    def address(self) -> Address:
        """Address of the broker."""
        return self._address

    @property
    def error(self) -> str:
        """Error of the last attempt to connect, or message about another client with this id; empty for none."""
        return self.conflict or self._error

    @property
    def conflict(self) -> str:
        """Message about another client with this id, which makes both connections unreliable; empty for none."""
        if self._conflict and not self._takeovers.conflict:
            self._conflict = ""
        return self._conflict

    def request_retained(self, topic: str) -> None:
        """Have the broker send the retained messages of a filter once, and hardly any of its other messages.

        They come with QoS 1, so that ``receive_maximum`` bounds the copies that the broker has in memory.
        """
        with contextlib.suppress(*_NOT_SENT):
            self._client.subscribe(topic, options=SubscribeOptions(qos=1))
            self._client.unsubscribe(topic)

    def round_trip(self, topic: str, payload: bytes, timeout_s: float) -> bool:
        """Publish a message with QoS 1. Returns whether the broker acknowledges it within ``timeout_s`` seconds."""
        if not self.connected.is_set():
            return False
        with contextlib.suppress(*_NOT_SENT):
            message = self._client.publish(topic, payload, 1)
            message.wait_for_publish(timeout_s)
            return message.is_published()
        return False

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
        single: bool = False,
    ) -> bool:
        """Send a message on the live connection. Returns False, and drops the message, if there is none.

        Args:
            qos: Quality of service, 0 or 1.
            retain: Whether the broker keeps the message for later subscribers.
            expiry_s: Time after which the broker drops the message, seconds.
            single: Whether the message is dropped while another such message of this topic has not been written to the
                broker: messages of QoS 0 wait in memory without a bound. Only on the connection's thread.
        """
        if not self.connected.is_set():
            return False
        if single:
            self._unsent = {name: one for name, one in self._unsent.items() if not _is_written(one)}
            if topic in self._unsent or len(self._unsent) >= _MAX_SINGLE:
                return False
        extra = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if content is not None:
            extra.ContentType = content
        if correlation is not None:
            extra.CorrelationData = correlation
        if properties:
            extra.UserProperty = list(properties)
        if expiry_s is not None:
            extra.MessageExpiryInterval = expiry_s
        try:
            message = self._client.publish(topic, payload, qos, retain, extra)
        except _NOT_SENT:
            return False
        if single:
            self._unsent[topic] = message
        return message.rc == mqtt.MQTT_ERR_SUCCESS

    def _no_delay(self, _client: mqtt.Client, _data: object, sock: object) -> None:
        # Without TCP_NODELAY a QoS 1 exchange on loopback takes 44 to 88 ms instead of 0.4 (Nagle and delayed ACK).
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _connected(self, client: mqtt.Client, _data: object, _flags: object, reason: ReasonCode, _p: object) -> None:
        if reason.is_failure:
            self._set_error(mqtt_errors.refused(self._address, reason.value, str(reason)))
            return
        self._error = ""
        self._accepted = True
        self._takeovers.accepted()
        if self._subscriptions:
            client.subscribe([(topic, SubscribeOptions(qos=qos)) for topic, qos in self._subscriptions])
        self.connected.set()
        log.info("connected to %s:%d", self._address.host, self._address.port)
        try:
            self._on_connect()
        except BaseException:
            log.exception("on_connect failed")

    def _failed(self, _client: mqtt.Client, _data: object) -> None:
        # paho calls this while it handles the exception, and does not pass it.
        self._set_error(f"{mqtt_errors.unreachable(self._address, sys.exc_info()[1])}; trying again")
        self._on_loss()

    def _disconnected(self, client: mqtt.Client, _data: object, _f: object, reason: ReasonCode, _p: object) -> None:
        delay = None
        if reason.is_failure:
            taken_over = mqtt_errors.taken_over(reason.value)
            if self._accepted:
                delay = self._takeovers.ended(taken_over)
            if self._takeovers.conflict:
                conflict = self._conflict or mqtt_errors.conflict(self._client_id, taken_over)
                if not self._conflict:
                    log.log(self.error_level, "%s", conflict)
                self._conflict = self._error = conflict
            else:
                known = self._accepted or taken_over
                why = mqtt_errors.lost(reason.value, str(reason)) if known else mqtt_errors.hung_up(self._address)
                self._set_error(f"{why}; trying again" if self._error in ("", NOT_YET) else self._error)
        client.reconnect_delay_set(*(self._retry_s if delay is None else (delay, delay)))
        self._accepted = False
        self.connected.clear()  # after the error is set
        self._on_loss()

    def _set_error(self, error: str) -> None:
        if error != self._error:
            log.log(self.error_level, "%s", error)
        self._error = error

    def _received(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        extra = message.properties
        try:
            self._on_message(
                Message(
                    message.topic,
                    bytes(message.payload),
                    getattr(extra, "ContentType", None),
                    getattr(extra, "CorrelationData", None),
                    tuple(getattr(extra, "UserProperty", ())),
                    message.retain,
                )
            )
        except BaseException:  # a panic in Rust code is not an ``Exception``
            log.exception("a message on %s was dropped", message.topic)

    def _published(self, _client: mqtt.Client, _data: object, _mid: int, reason: ReasonCode, _p: object) -> None:
        # Called for QoS 1 only.
        if reason.is_failure and not self._refused:
            self._refused = True
            log.warning(
                "the broker refused a message (%s); may this user write on every topic that it needs? After an update "
                "run cloud-server provision again",
                reason,
            )


def _is_written(message: mqtt.MQTTMessageInfo) -> bool:
    """Whether a message of QoS 0 was written to the broker, or was dropped with its connection."""
    return message.rc != mqtt.MQTT_ERR_SUCCESS or message.is_published()
