"""Brokers that share the devices: a server on all of them, and an agent that changes from one to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport.broker import addresses
from cachenet.shared.transport.protocol import Answer
from cachenet.shared.transport.shards import ranked
from tests.broker import Mosquitto
from tests.e2e.agents import AgentProcess, agents, bundle
from tests.e2e.servers import GOOD, Device, ServerProcess, until

__all__ = ["agents", "bundle"]


class Shards:
    """Two brokers and one server of both; ``first`` is the one that the device ``cam`` prefers."""

    def __init__(self, directory: Path, bundle: Bundle) -> None:
        each = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            each.append(Mosquitto(directory / name))
            each[-1].start()
        self.urls = ",".join(broker.url for broker in each)
        preferred = ranked(addresses(self.urls), "cam")[0].port
        self.first, self.second = sorted(each, key=lambda broker: broker.port != preferred)
        self.server = ServerProcess(directory, "--bundle", str(bundle.directory), "--broker", self.urls)


@pytest.fixture
def shards(tmp_path: Path, bundle: Bundle) -> Iterator[Shards]:
    found = Shards(tmp_path, bundle)
    yield found
    found.server.close()
    for broker in (found.first, found.second):
        broker.kill()


def test_each_broker_has_the_catalogue_and_its_own_replies(shards: Shards, bundle: Bundle) -> None:
    devices = [Device(broker.port, "cam") for broker in (shards.first, shards.second)]
    for device in devices:
        device.ready()
        assert device.catalogue_of("tiny")[0].payload == bundle.data
        assert isinstance(device.ask(GOOD), Answer)
    model = bundle.manifest.models["base"]
    assert devices[1].pull(model.sha256, 0, 10).total == model.bytes
    assert [len(device.answers) for device in devices] == [1, 1]
    assert [len(device.chunks) for device in devices] == [0, 1]
    for device in devices:
        device.link.stop()
    counts, seconds = shards.server.stop()
    assert counts["answers"] == 2
    assert seconds < 5


def test_a_dead_broker_does_not_stop_the_service_of_the_other(shards: Shards) -> None:
    device = Device(shards.second.port)
    device.ready()
    shards.server.wait_for(f"connected to 127.0.0.1:{shards.first.port}")
    shards.first.kill()
    until(lambda: "connection lost" in shards.server.log())
    for _ in range(3):
        assert isinstance(device.ask(GOOD), Answer)
    device.link.stop()
    shards.first.start()
    again = Device(shards.first.port)
    again.ready()  # the broker has lost the catalogue, and the server has published it again
    assert isinstance(again.ask(GOOD), Answer)
    again.link.stop()


def test_an_agent_goes_on_with_another_broker_and_returns(
    shards: Shards, agents: Callable[..., AgentProcess], frames: Path, tmp_path: Path
) -> None:
    flags = ("--store", str(tmp_path / "store"), "--set", "levels=base,cloud")  # the full model stays on the server
    agent = agents(str(frames), "--broker", shards.urls, *flags, "--fps", "20", "--deadline-ms", "5000")
    agent.wait_for(3, "cloud")
    assert f"connected to 127.0.0.1:{shards.first.port}" in agent.log()
    shards.first.kill()
    agent.wait(lambda: f"uses broker 127.0.0.1:{shards.second.port}" in agent.log())
    agent.wait_for(3, "cloud")
    shards.first.start()
    agent.wait(lambda: f"uses broker 127.0.0.1:{shards.first.port}" in agent.log())
    agent.wait_for(3, "cloud")
    agent.stop()
