"""Whether a broker does its work: a message that is published comes back to its sender."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from cachenet.shared.transport.mqtt import Address, MqttConnection

#: Time between two probes of a broker, and how long one may take, seconds.
PROBE_S, PROBE_TIMEOUT_S = 3.0, 3.0
# rumqttd keeps 8 MB of messages of each topic that was ever subscribed to, each with the 10 kB that its connection had
# for reading: one topic for all probes, and messages so large that the 8 MB are few of them, bound that.
_TOPIC = "cachenet/probe"
_PAYLOAD_BYTES = 1 << 16
_STEP_S = 0.1


def exchange(where: Address, timeout_s: float, client_id: str = "") -> str:
    """Connect anew, subscribe, publish and receive one's own message, on a broker without users. What failed; empty if
    all was done within ``timeout_s`` seconds. ``client_id``: a random one unless given."""
    deadline = time.monotonic() + timeout_s
    token = secrets.token_bytes(8)
    payload = token.ljust(_PAYLOAD_BYTES, b"\0")
    stage = "accepts no connection"
    done = False

    def connected(client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        nonlocal stage
        stage = f"refuses a connection ({reason})" if reason.is_failure else "acknowledges no subscription"
        if not reason.is_failure:
            client.subscribe(_TOPIC, 0)

    def subscribed(client: mqtt.Client, *_: Any) -> None:
        nonlocal stage
        stage = "delivers no message"
        client.publish(_TOPIC, payload, qos=1)

    def received(_client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        nonlocal done
        done = done or message.payload == payload

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id or f"probe-{token.hex()}", protocol=mqtt.MQTTv5)
    client.connect_timeout = timeout_s
    client.on_connect, client.on_subscribe, client.on_message = connected, subscribed, received
    try:
        client.connect(where.host, where.port, keepalive=60)
        stage = "answers no connection"
        while not done and time.monotonic() < deadline:
            if client.loop(_STEP_S) != mqtt.MQTT_ERR_SUCCESS:
                return f"it {stage}: the connection was closed"
        if done:
            client.disconnect()
            client.loop(_STEP_S)
    except OSError as error:
        return f"it {stage}: {error.strerror or error}"
    finally:
        if (sock := client.socket()) is not None:
            sock.close()
    return "" if done else f"it {stage} within {timeout_s:g} s"


class RoundTripProbe:
    """Publishes a message on a connection that exists and receives it again, for any broker.

    A broker with access control may deny the subscription; then its acknowledgement alone shows that it works.
    """

    def __init__(self, topic: str) -> None:
        """``topic``: no other client subscribes to it."""
        self.topic = topic
        #: Why the broker does not work, for a person; empty while all is well.
        self.trouble = ""
        self._payload = b""
        self._returned = threading.Event()
        #: Whether a message has ever come back on the present connection.
        self._returns = False

    def connected(self) -> None:
        """There is a new connection, with a subscription to ``topic``."""
        self._returns = False
        self.trouble = ""

    def receive(self, payload: bytes) -> None:
        """A message on ``topic``."""
        if payload == self._payload:
            self._returns = True
            self._returned.set()

    def run(self, link: MqttConnection, timeout_s: float = PROBE_TIMEOUT_S) -> str:
        """Probe the broker once, if ``link`` is connected; why it does not work, empty if it does."""
        deadline = time.monotonic() + timeout_s
        self._payload = secrets.token_bytes(8)
        self._returned.clear()
        returns = self._returns
        acknowledged = link.round_trip(self.topic, self._payload, timeout_s)
        if not link.connected.is_set():
            return self.trouble
        if not acknowledged:
            self.trouble = f"the broker is connected and acknowledges no message within {timeout_s:g} s"
        elif returns and not self._returned.wait(max(0.0, deadline - time.monotonic())):
            self.trouble = f"the broker is connected and delivers no message within {timeout_s:g} s"
        else:
            self.trouble = ""
        return self.trouble
