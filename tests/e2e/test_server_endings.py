"""Ends and restarts: killed brokers, signals to the server, and the end of its embedded broker."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport.protocol import Answer
from tests.broker import Mosquitto, free_port, listening
from tests.e2e.servers import GOOD, Device, ServerProcess, bundle, until

__all__ = ["bundle"]


def test_the_server_reconnects_to_a_restarted_mosquitto(bundle: Bundle, tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    broker.start()
    server = ServerProcess(tmp_path, "--bundle", str(bundle.directory), "--broker", broker.url)
    device = Device(broker.port)
    try:
        device.ready()
        assert isinstance(device.ask(GOOD), Answer)
        broker.kill()
        until(lambda: not device.link.connected.is_set())
        device.catalogue.clear()
        broker.start()
        device.ready()
        assert isinstance(device.ask(GOOD), Answer)
        server.stop()
    finally:
        device.link.stop()
        server.close()
        broker.kill()


def test_a_killed_embedded_broker_is_restarted(bundle: Bundle, tmp_path: Path) -> None:
    port = free_port()
    server = ServerProcess(tmp_path, "--bundle", str(bundle.directory), "--port", str(port))
    device = Device(port)
    try:
        device.ready()
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        assert len(children) == 1
        os.kill(int(children[0]), signal.SIGKILL)
        until(lambda: not device.link.connected.is_set())
        device.catalogue.clear()
        device.ready()
        assert isinstance(device.ask(GOOD), Answer)
        server.stop()
        assert not listening(port)
    finally:
        device.link.stop()
        server.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("broker", ["mosquitto", "embedded", "unreachable"])
def test_a_signal_ends_the_server_within_two_seconds(
    bundle: Bundle, tmp_path: Path, how: signal.Signals, broker: str, request: pytest.FixtureRequest
) -> None:
    port = free_port()
    flags = {
        "mosquitto": lambda: ["--broker", request.getfixturevalue("mosquitto").url],
        "embedded": lambda: ["--port", str(port)],
        # TEST-NET-1 of RFC 5737: no host answers or refuses.
        "unreachable": lambda: ["--broker", "mqtt://192.0.2.1"],
    }[broker]()
    server = ServerProcess(tmp_path, "--bundle", str(bundle.directory), *flags)
    try:
        server.wait_for("serving tiny" if broker == "unreachable" else "connected to")
        counts, seconds = server.stop(how)
        assert seconds < 2.0
        assert counts["requests"] == 0
    finally:
        server.close()


def test_a_killed_server_ends_its_embedded_broker(bundle: Bundle, tmp_path: Path) -> None:
    port = free_port()
    server = ServerProcess(tmp_path, "--bundle", str(bundle.directory), "--port", str(port))
    server.wait_for("connected to")
    server.close()
    until(lambda: not listening(port))
