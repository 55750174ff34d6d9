"""Retained messages of a deployed broker: what a device may leave there, and for how long."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.cloud_server.broker import retained as sweeping
from cachenet.cloud_server.broker.retained import RetainedMessages, RetainedSweeper
from cachenet.shared.transport import protocol
from cachenet.shared.transport.protocol import topic
from tests.deployed import Deployed
from tests.e2e.clients import Client, clients, deployed
from tests.e2e.servers import until

__all__ = ["deployed"]

#: Memory of the broker in a test, kilobytes.
_MEMORY_KB = 24 << 10


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The deployed broker with a smaller bound of its memory."""
    broker = Deployed(tmp_path_factory.mktemp("deployed"), "cam-a", "cam-b")
    broker._command = ["sh", "-c", f'ulimit -d {_MEMORY_KB} && exec "$@"', "sh", *broker._command]
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


def test_a_device_that_retains_more_than_the_brokers_memory_is_disconnected_and_others_are_served(
    small: Deployed,
) -> None:
    rogue, honest = Client(small.address("cam-a"), "cachenet-cam-a"), Client(small.address("cam-b"), "cachenet-cam-b")
    server = Client(small.address("server"), "cloud-x", *protocol.SERVER_TOPICS)
    with clients(rogue, honest, server):
        until(lambda: all(one.link.connected.is_set() for one in (rogue, honest, server)))
        for number in range(40):
            rogue.link.publish(topic("cam-a", "result", str(number)), bytes(1 << 20), 1, retain=True)
        until(lambda: not rogue.link.connected.is_set(), "the broker ends the connection at the bound of its memory")
        honest.link.publish(topic("cam-b", "infer", "full"), b"question", 1)
        until(lambda: b"question" in server.payloads())


def test_what_a_device_retains_beyond_its_status_and_its_cameras_is_removed(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_PERIOD_S", 0.5)
    device = Client(deployed.address("cam-a"), "cachenet-cam-a")
    with clients(device):
        until(device.link.connected.is_set)
        for number in range(70):
            device.link.publish(topic("cam-a", "result", f"zone{number}"), b"x", 1, retain=True)
            device.link.publish(topic("cam-a", "infer", f"model{number}"), bytes(100_000), 1, retain=True)
            device.link.publish(f"homeassistant/device/cam-a/{number}/config", b"{}", 1, retain=True)
        device.link.publish(topic("cam-a", "status"), b"online", 1, retain=True)
        assert device.link.round_trip(topic("cam-a", "result"), b"last", 60)
    assert len(retained(deployed, "cam-a")) > 1 + 64
    sweeper = RetainedSweeper(deployed.address("server"))
    sweeper.start()
    try:
        until(lambda: len(retained(deployed, "cam-a")) == 1 + 64)
    finally:
        sweeper.stop()
    assert {one for one in retained(deployed, "cam-a") if one.startswith("cachenet")} == {topic("cam-a", "status")}


def test_a_device_writes_on_no_topic_that_the_protocol_does_not_name(deployed: Deployed) -> None:
    device = Client(deployed.address("cam-b"), "cachenet-cam-b")
    with clients(device):
        until(device.link.connected.is_set)
        for leaf in (("note",), ("answer",), ("blob", "x"), ("blob", "get", "x"), ("status", "x")):
            device.link.publish(topic("cam-b", *leaf), b"note", 1, retain=True)
        device.link.publish(topic("cam-b", "status"), b"online", 1, retain=True)
        time.sleep(0.4)
    assert retained(deployed, "cam-b") == {topic("cam-b", "status")}


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
