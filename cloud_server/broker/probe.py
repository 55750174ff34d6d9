"""Probes of a broker: a client publishes a message and must receive the same message."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from cachenet.shared.transport.mqtt import Address, MqttConnection

#: Time between two probes of a broker, seconds.
PROBE_S = 3.0
#: Longest time of one probe, seconds.
PROBE_TIMEOUT_S = 3.0
#: Topic of all probes. rumqttd keeps 8 MB of messages for each topic that had a subscription, each message with the
#: 10 kB read buffer of its connection. One topic and large messages bound that memory.
_TOPIC = "cachenet/probe"
#: Size of a probe's message, bytes.
_PAYLOAD_BYTES = 1 << 16
#: Longest wait in one step of the client's loop, seconds.
_STEP_S = 0.1


def exchange(where: Address, timeout_s: float, client_id: str = "") -> str:
    """Open a connection, subscribe, publish a message and receive it, on a broker without users.

    Args:
        where: Address of the broker.
        timeout_s: Longest time of all steps, seconds.
        client_id: Client id; empty for a random one.

    Returns:
        The error message of the failed step; empty if all steps succeeded.
    """
    deadline = time.monotonic() + timeout_s
    token = secrets.token_bytes(8)
    payload = token.ljust(_PAYLOAD_BYTES, b"\0")
    failure = "accepts no connection"
    done = False

    def connected(client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        nonlocal failure
        failure = f"refuses a connection ({reason})" if reason.is_failure else "acknowledges no subscription"
        if not reason.is_failure:
            client.subscribe(_TOPIC, 0)

    def subscribed(client: mqtt.Client, *_: Any) -> None:
        nonlocal failure
        failure = "delivers no message"
        client.publish(_TOPIC, payload, qos=1)

    def received(_client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        nonlocal done
        done = done or message.payload == payload

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id or f"probe-{token.hex()}", protocol=mqtt.MQTTv5)
    client.connect_timeout = timeout_s
    client.on_connect, client.on_subscribe, client.on_message = connected, subscribed, received
    try:
        client.connect(where.host, where.port, keepalive=60)
        failure = "answers no connection"
        while not done and time.monotonic() < deadline:
            if client.loop(_STEP_S) != mqtt.MQTT_ERR_SUCCESS:
                return f"it {failure}: the connection was closed"
        if done:
            client.disconnect()
            client.loop(_STEP_S)
    except OSError as error:
        return f"it {failure}: {error.strerror or error}"
    finally:
        if (sock := client.socket()) is not None:
            sock.close()
    return "" if done else f"it {failure} within {timeout_s:g} s"


class RoundTripProbe:
    """Publishes a message on an open connection and waits until the broker returns it.

    A broker with access control may deny the subscription. Then the acknowledgement of the message is enough.
    """

    def __init__(self, topic: str) -> None:
        """Create a probe of ``topic``, which no other client may subscribe to."""
        self.topic = topic
        #: Why the broker does not work; empty while it works.
        self.error = ""
        self._payload = b""
        self._received = threading.Event()
        #: Whether a message has come back on the present connection.
        self._returns = False

    def connected(self) -> None:
        """Note a new connection with a subscription to ``topic``."""
        self._returns = False
        self.error = ""

    def receive(self, payload: bytes) -> None:
        """Note a message on ``topic``."""
        if payload == self._payload:
            self._returns = True
            self._received.set()

    def run(self, link: MqttConnection, timeout_s: float = PROBE_TIMEOUT_S) -> str:
        """Probe the broker once, if ``link`` is connected. The error message; empty if the broker works."""
        deadline = time.monotonic() + timeout_s
        self._payload = secrets.token_bytes(8)
        self._received.clear()
        returns = self._returns
        acknowledged = link.round_trip(self.topic, self._payload, timeout_s)
        if not link.connected.is_set():
            return self.error
        if not acknowledged:
            self.error = f"the broker is connected and acknowledges no message within {timeout_s:g} s"
        elif returns and not self._received.wait(max(0.0, deadline - time.monotonic())):
            self.error = f"the broker is connected and delivers no message within {timeout_s:g} s"
        else:
            self.error = ""
        return self.error
