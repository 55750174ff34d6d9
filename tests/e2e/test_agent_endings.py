"""An agent's birth and end, as its status tells of them, and what a signal does in whatever state it is."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport.mqtt import Address, MqttConnection
from cachenet.shared.transport.protocol import Status, topic
from tests.broker import Mosquitto, free_port, mosquitto
from tests.e2e.agents import AgentProcess, agents, bundle
from tests.e2e.servers import until

__all__ = ["agents", "bundle", "mosquitto"]


def test_the_status_is_online_stopped_or_offline(
    frames: Path, mosquitto: Mosquitto, agents: Callable[..., AgentProcess], bundle: Bundle
) -> None:
    """The message is retained for later subscribers."""

    def status() -> Status:
        observed: list[bytes] = []
        observer = MqttConnection(
            Address("127.0.0.1", mosquitto.port), "observer", [(topic("cam", "status"), 1)],
            lambda message: observed.append(message.payload),
        )  # fmt: skip
        observer.start()
        try:
            until(lambda: observed)
        finally:
            observer.stop()
        return msgspec.json.decode(observed[0], type=Status)

    flags = (str(frames), "--bundle", str(bundle.directory), "--broker", mosquitto.url, "--fps", "50")
    agent = agents(*flags)
    agent.wait(lambda: "connected to" in agent.log() and agent.answers())
    online = status()
    assert (online.state, online.bundle) == ("online", bundle.version)
    agent.stop()
    assert status().state == "stopped"
    agent = agents(*flags)
    agent.wait(lambda: "connected to" in agent.log() and agent.answers())
    agent.process.kill()
    until(lambda: status().state == "offline")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", ["running", "refused", "unreachable", "waiting", "slow"])
def test_a_signal_ends_it_within_two_seconds_with_a_summary(
    how: signal.Signals,
    state: str,
    frames: Path,
    bundle: Bundle,
    mosquitto: Mosquitto,
    agents: Callable[..., AgentProcess],
    tmp_path: Path,
) -> None:
    """Where the first connection is refused or never comes about; while it waits for a catalogue; for an answer with
    a deadline of a minute; or for a frame that is a minute away."""
    # TEST-NET-1 of RFC 5737: nothing there answers, nor refuses.
    url = {"refused": f"mqtt://127.0.0.1:{free_port()}", "unreachable": "mqtt://192.0.2.1"}.get(state, mosquitto.url)
    flags = [str(frames), "--broker", url, "--store", str(tmp_path / "store")]
    if state in ("running", "slow"):
        flags += ["--bundle", str(bundle.directory), "--fps", "0.02" if state == "slow" else "100"]
    if state == "running":
        flags += ["--deadline-ms", "60000"]
    agent = agents(*flags)
    if state == "running":  # there is no server, so a frame that asks waits
        agent.wait(lambda: "connected to" in agent.log() and "answering with" in agent.log())
        time.sleep(0.5)
    elif state == "slow":
        agent.wait(agent.answers)
    else:
        agent.wait(lambda: "waiting for a model" in agent.log())
    summary, took = agent.stop(how)
    print(f"ended after {took:.2f} s")
    assert took < 2.0
    assert (summary["frames"] > 0) == (state in ("running", "slow"))
