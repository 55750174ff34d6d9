"""Forgetting a device: what it has left on the broker for those who come later goes away."""

from __future__ import annotations

import threading

import msgspec

from edge_agent import home_assistant
from shared import protocol
from shared.link import Address, Link, LinkError, Message

#: How long the broker may take to be there, to say what it holds, and to let go of it, seconds.
_CONNECT_S, _QUIET_S, _GONE_S = 3.0, 1.0, 5.0


def forget(address: Address, device: str, prefix: str) -> list[str]:
    """Take back all that ``device`` has retained: its status, and its cameras in Home Assistant under ``prefix``, even
    those that it has not any more. The topics that were emptied. Raises ``LinkError`` if there is no broker, if the
    broker will not have it, or if the device is online and would say it all again."""
    status = protocol.topic(device, "status")
    held: dict[str, bytes] = {}
    news = threading.Condition()

    def receive(message: Message) -> None:
        with news:
            if message.payload:
                held[message.topic] = message.payload
            else:
                held.pop(message.topic, None)
            news.notify()

    topics = [(status, 1), (home_assistant.config_topic(prefix, device, "+"), 1)]
    link = Link(address, f"cachenet-{device}-forget", topics, receive)
    link.start()
    try:
        if not link.connected.wait(_CONNECT_S):
            raise LinkError(link.trouble.removesuffix("; trying again"))
        with news:
            while news.wait(_QUIET_S):  # as long as it has something to say
                pass
            found = sorted(held)
        if status in held and _online(held[status]):
            raise LinkError(f"{device} is online and would say all of it again; stop it first")
        for topic in found:
            link.publish(topic, b"", qos=1, retain=True)
        with news:
            if not news.wait_for(lambda: not held, _GONE_S):
                raise LinkError(f"the broker keeps {', '.join(sorted(held))}; may this user write there?")
    finally:
        link.stop()
    return found


def _online(payload: bytes) -> bool:
    try:
        return msgspec.json.decode(payload, type=protocol.Status).state == "online"
    except msgspec.DecodeError:
        return False
