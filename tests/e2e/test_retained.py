"""Retained messages of a deployed broker: what a device may leave there, and for how long."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.cloud_server.broker.retained import RetainedMessages, RetainedSweeper
from cachenet.shared.transport.protocol import topic
from tests.deployed import Deployed
from tests.e2e.clients import Client, clients
from tests.e2e.servers import until

#: Memory of the broker in these tests, bytes.
_MEMORY = 24 << 20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The deployed broker with a smaller bound of its memory."""
    place = tmp_path_factory.mktemp("deployed")
    broker = Deployed(place, "cam-a", "cam-b")
    shipped = (place / "mosquitto.conf").read_text()
    assert "\nmemory_limit 536870912\n" in shipped
    (place / "mosquitto.conf").write_text(shipped.replace("memory_limit 536870912", f"memory_limit {_MEMORY}"))
    broker.start()
    yield broker
    broker.kill()


def retained(broker: Deployed, device: str) -> set[str]:
    """Topics of the messages that the broker retains of a device, as far as it delivers them at once."""
    reader = Client(
        broker.address(device), f"cachenet-{device}", topic(device, "#"), f"homeassistant/device/{device}/#"
    )
    with clients(reader):
        assert reader.link.settle(10) == ""
        time.sleep(0.4)
        return {message.topic for message in reader.messages if message.retained}


def test_a_device_cannot_fill_the_broker_with_retained_messages(small: Deployed) -> None:
    """It publishes four times the broker's memory, and a thousand small messages. Others are served afterwards."""
    rogue = Client(small.address("cam-a"), "cachenet-cam-a")
    with clients(rogue):
        until(rogue.link.connected.is_set)
        rogue.link.publish(topic("cam-a", "status"), b"online", 1, retain=True)
        for number in range(100):
            until(rogue.link.connected.is_set)  # beyond its memory the broker ends the connection
            leaf = (("infer", str(number)), ("result", str(number)), ("snapshot", str(number)))[number % 3]
            rogue.link.publish(topic("cam-a", *leaf), bytes(1 << 20), 1, retain=True)
        for number in range(1000):
            rogue.link.publish(topic("cam-a", "result", f"zone{number}"), b"x", 0, retain=True)
            rogue.link.publish(f"homeassistant/device/cam-a/{number}/config", b"{}", 0, retain=True)
        time.sleep(0.4)
    assert len(retained(small, "cam-a")) > 100, "the attack does something"
    sweeper = RetainedSweeper(small.address("server"))
    sweeper.start()
    try:
        until(lambda: {one for one in retained(small, "cam-a") if "/config" not in one} <= {topic("cam-a", "status")})
        until(lambda: len(retained(small, "cam-a")) <= 1 + 64, "one description for each camera")
    finally:
        sweeper.stop()
    honest = Client(small.address("cam-b"), "cachenet-cam-b", topic("cam-b", "answer"))
    server = Client(small.address("server"), "cloud-x")
    with clients(honest, server):
        until(lambda: honest.link.connected.is_set() and server.link.connected.is_set())
        time.sleep(0.4)
        server.link.publish(topic("cam-b", "answer"), bytes(1 << 20), 1)
        until(lambda: honest.messages)


def test_a_device_writes_on_no_topic_that_the_protocol_does_not_name(small: Deployed) -> None:
    device = Client(small.address("cam-b"), "cachenet-cam-b")
    with clients(device):
        until(device.link.connected.is_set)
        for leaf in (("note",), ("answer",), ("blob", "x"), ("blob", "get", "x"), ("status", "x")):
            device.link.publish(topic("cam-b", *leaf), b"kept", 1, retain=True)
        device.link.publish(topic("cam-b", "status"), b"online", 1, retain=True)
        time.sleep(0.4)
    assert retained(small, "cam-b") == {topic("cam-b", "status")}


@given(st.lists(st.tuples(st.text("ab/", max_size=6), st.integers(0, 10**6)), max_size=30))
def test_only_a_status_of_bounded_size_stays_in_a_devices_subtree(messages: list[tuple[str, int]]) -> None:
    reading = RetainedMessages()
    for leaf, size in messages:
        assert reading.superfluous(f"cachenet/2/cam/{leaf}", size)
    assert not reading.superfluous("cachenet/2/cam/status", 300)
    assert not reading.superfluous("cachenet/1/cam/status", 300)
    assert reading.superfluous("cachenet/2/cam/status", 1 << 20)
    assert reading.superfluous("homeassistant/device/cam/yard/config", 1 << 20)
    assert not reading.superfluous("homeassistant/device/cam/yard/config", 10_000)
