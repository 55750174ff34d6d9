"""Which catalogues an agent with a trusted key takes, over either broker."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path

import pytest

from cachenet.shared.bundle.trust import Signer, generate
from tests.broker import Mosquitto, free_port
from tests.bundles import tiny_bundle
from tests.e2e.agents import AgentProcess
from tests.e2e.servers import ServerProcess

_BOUND_S = 30.0


@pytest.mark.parametrize("own", [False, True], ids=["mosquitto", "embedded"])
def test_a_device_with_a_trusted_key_waits_for_a_catalogue_that_it_has_signed(
    tmp_path: Path, mosquitto: Mosquitto, frames: Path, own: bool
) -> None:
    """Over either broker: the signature travels with the retained catalogue. Later it starts without the network."""
    private, public = generate(tmp_path / "keys")
    directory = tiny_bundle(tmp_path / "bundle")
    port = free_port() if own else mosquitto.port
    broker = ["--broker", "embedded", "--port", str(port)] if own else ["--broker", f"mqtt://127.0.0.1:{port}"]
    flags = [str(frames), "--trusted-key", str(public), "--store", str(tmp_path / "store"), "--fps", "50"]
    url = ["--broker", f"mqtt://127.0.0.1:{port}"]
    with closing(ServerProcess(tmp_path, "--bundle", str(directory), *broker)):
        agent = AgentProcess(tmp_path, *flags, *url)
        agent.wait(lambda: "has no signature" in agent.log())
        assert not agent.answers()
        agent.process.send_signal(signal.SIGTERM)
        agent.process.wait(_BOUND_S)
    (directory / "bundle.sig").write_bytes(Signer(private).sign((directory / "bundle.json").read_bytes()))
    with closing(ServerProcess(tmp_path, "--bundle", str(directory), *broker)):
        agent = AgentProcess(tmp_path, *flags, *url, name="trusting")
        agent.wait_for(5)
        agent.process.send_signal(signal.SIGTERM)
        agent.process.wait(_BOUND_S)
    alone = AgentProcess(
        tmp_path, *flags, "--broker", f"mqtt://127.0.0.1:{free_port()}", "--frames", "20", name="alone"
    )
    assert alone.finish()["frames"] == 20
