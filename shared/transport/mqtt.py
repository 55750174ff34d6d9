"""One MQTT 5 connection that mends itself: what the agent and the server both put their messages on.

Never queues while the network is gone (paho's own queue would grow for hours): ``publish`` says whether the message
was handed to a live connection, and the caller decides what its loss means.
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

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from cachenet.shared.transport import mqtt_errors
from cachenet.shared.transport.backoff import Backoff
from cachenet.shared.transport.broker import Address, MqttError, address, password
from cachenet.shared.transport.protocol import MAX_PICTURE
from cachenet.shared.transport.takeover import TakeoverMonitor

__all__ = ["NOT_YET", "Address", "Message", "MqttConnection", "MqttError", "address", "password"]

log = logging.getLogger(__name__)

#: A link's trouble before its first attempt to connect has ended.
NOT_YET = "not connected yet"
_KEEPALIVE_S = 10
_CONNECT_TIMEOUT_S = 3.0
_RETRY_S = (0.25, 4.0)
#: First and longest delay before the network loop is run again after it failed, seconds.
_LOOP_RETRY_S = (0.25, 30.0)


@dataclass(frozen=True)
class Message:
    """A received message; ``properties`` are the user properties."""

    topic: str
    payload: bytes
    content: str | None
    correlation: bytes | None
    properties: tuple[tuple[str, str], ...]


class _Client(mqtt.Client):
    """paho's client, whose thread goes on after an exception, whatever the broker has sent."""

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        backoff, said = Backoff(*_LOOP_RETRY_S), ""
        while True:
            try:
                return super().loop_forever(timeout, retry_first_connection)
            except BaseException as error:  # noqa: PERF203
                if (text := f"{type(error).__name__}: {error}") != said:
                    said = text
                    log.exception("the connection's thread failed; it connects again")
                time.sleep(backoff.failed())
                with contextlib.suppress(OSError, ValueError):
                    self.reconnect()


class MqttConnection:
    """A connection to the broker, kept up by one background thread."""

    def __init__(
        self,
        address: Address,
        client_id: str,
        subscriptions: Sequence[tuple[str, int]],
        on_message: Callable[[Message], None],
        on_connect: Callable[[], None] = lambda: None,
        will: tuple[str, bytes] | None = None,
    ) -> None:
        """``subscriptions`` are (topic, QoS), renewed at every connection; ``on_message`` runs on the link's thread
        and what it raises is logged, never fatal. ``will`` is published, retained, when the connection breaks."""
        self.connected = threading.Event()
        self._trouble = NOT_YET
        #: Whether the broker has taken the present connection.
        self._answered = False
        self._address = address
        self._subscriptions = list(subscriptions)
        self._on_message, self._on_connect = on_message, on_connect
        self._takeovers = TakeoverMonitor(time.monotonic)
        #: Another client with this id, as the log has it; empty if there is none.
        self._conflict = ""
        self._client_id = client_id
        client = _Client(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5)
        client.connect_timeout = _CONNECT_TIMEOUT_S
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
        #: Whether the broker has refused a message, which is said once.
        self._refused = False

    def start(self) -> None:
        """Connect in the background, now and after every loss, until ``stop``."""
        connection = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        connection.MaximumPacketSize = MAX_PICTURE + 65536
        self._client.connect_async(
            self._address.host, self._address.port, _KEEPALIVE_S, clean_start=True, properties=connection
        )
        self._client.loop_start()

    def settle(self, seconds: float) -> str:
        """Wait for the end of the first attempt to connect; why it failed, empty if it did not."""
        end = time.monotonic() + seconds
        while not self.connected.wait(0.02) and self._trouble == NOT_YET and time.monotonic() < end:
            pass
        return self._trouble

    def stop(self, farewell: tuple[str, bytes] | None = None) -> None:
        """Say ``farewell`` (topic, retained payload) if connected, disconnect and end the thread; 1.5 s at most, even
        in the middle of a connection attempt."""
        if farewell is not None and self.connected.is_set():
            with contextlib.suppress(ValueError, RuntimeError):
                self._client.publish(*farewell, qos=1, retain=True).wait_for_publish(0.5)
        self._client.disconnect()
        ender = threading.Thread(target=self._client.loop_stop, daemon=True)
        ender.start()
        ender.join(1.0)
        self.connected.clear()

    @property
    def trouble(self) -> str:
        """Why the last attempt failed, or that another client with this id is connected to the broker, for a person;
        empty while all is well."""
        return self.conflict or self._trouble

    @property
    def conflict(self) -> str:
        """That another client with this id is connected to the broker; empty if there is none. Neither works reliably
        then, even while this one is connected."""
        if self._conflict and not self._takeovers.conflict:
            self._conflict = ""
        return self._conflict

    def round_trip(self, topic: str, payload: bytes, timeout_s: float) -> bool:
        """Publish a message with QoS 1; whether the broker acknowledged it within ``timeout_s`` seconds."""
        if not self.connected.is_set():
            return False
        with contextlib.suppress(ValueError, RuntimeError):  # the connection has just ended
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
    ) -> bool:
        """Hand a message to the connection. False if there is none: the message is gone."""
        if not self.connected.is_set():
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
            return self._client.publish(topic, payload, qos, retain, extra).rc == mqtt.MQTT_ERR_SUCCESS
        except ValueError:  # larger than the broker takes
            return False

    def _no_delay(self, _client: mqtt.Client, _data: object, sock: object) -> None:
        # Without this a QoS 1 exchange takes 44-88 ms on loopback instead of 0.4: Nagle waits for a delayed ACK.
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _connected(self, client: mqtt.Client, _data: object, _flags: object, reason: ReasonCode, _p: object) -> None:
        if reason.is_failure:
            self._say(mqtt_errors.refused(self._address, reason.value, str(reason)))
            return
        self._trouble = ""
        self._answered = True
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
        # paho calls this while it handles what went wrong, and does not say what that was.
        self._say(f"{mqtt_errors.unreachable(self._address, sys.exc_info()[1])}; trying again")

    def _disconnected(self, client: mqtt.Client, _data: object, _f: object, reason: ReasonCode, _p: object) -> None:
        delay = None
        if reason.is_failure:
            taken_over = mqtt_errors.taken_over(reason.value)
            if self._answered:
                delay = self._takeovers.ended(taken_over)
            if self._takeovers.conflict:
                conflict = self._conflict or mqtt_errors.conflict(self._client_id, taken_over)
                if not self._conflict:
                    log.warning(conflict)
                self._conflict = self._trouble = conflict
            else:
                known = self._answered or taken_over
                why = mqtt_errors.lost(reason.value, str(reason)) if known else mqtt_errors.hung_up(self._address)
                self._say(f"{why}; trying again" if self._trouble in ("", NOT_YET) else self._trouble)
        client.reconnect_delay_set(*(self._retry_s if delay is None else (delay, delay)))
        self._answered = False
        self.connected.clear()  # last: whoever sees that it is not connected can be told why

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning(trouble)
        self._trouble = trouble

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
                )
            )
        except BaseException:  # a panic in Rust code is no ``Exception``
            log.exception("a message on %s was dropped", message.topic)

    def _published(self, _client: mqtt.Client, _data: object, _mid: int, reason: ReasonCode, _p: object) -> None:
        # Only of QoS 1; the broker does not say what became of the others.
        if reason.is_failure and not self._refused:
            self._refused = True
            log.warning("the broker did not take a message (%s); may this user write on every topic it needs?", reason)
