"""A server whose broker is gone or deaf says so within ten seconds, and is well again when its broker is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cachenet.shared.transport.protocol import Answer
from tests.broker import Mosquitto, free_port
from tests.bundles import tiny_bundle
from tests.deployed import Deployed
from tests.e2e.servers import GOOD, Device, ServerProcess, until
from tests.shared.test_metrics_endpoint import get

#: What /health promises, seconds; and as much again for a busy machine.
_PROMISED_S, _SPARE_S = 10.0, 10.0


class Watched(ServerProcess):
    """A server whose /health is asked."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.port = free_port()
        bundle = str(tiny_bundle(directory / "bundle"))
        super().__init__(directory, "--bundle", bundle, "--metrics", str(self.port), *flags)
        until(lambda: "serving" in self.log() or self.process.poll() is not None)
        self.becomes(200)

    def becomes(self, status: int) -> str:
        """Wait until /health says this; why."""
        until(lambda: get(self.port, "/health")[0] == status, f"/health never said {status}: {self.log()}")
        return str(json.loads(get(self.port, "/health")[1]).get("why", ""))

    def soon_says(self, why: str) -> None:
        begun = time.monotonic()
        until(lambda: get(self.port, "/health")[0] == 503)
        assert time.monotonic() - begun < _PROMISED_S + _SPARE_S
        until(lambda: why in get(self.port, "/health")[1])


@contextmanager
def served(directory: Path, *flags: str) -> Iterator[Watched]:
    server = Watched(directory, *flags)
    try:
        yield server
    finally:
        server.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_deaf_embedded_broker_is_said_and_started_again_and_a_device_comes_back(tmp_path: Path) -> None:
    port = free_port()
    with served(tmp_path, "--port", str(port)) as server:
        device = Device(port)
        try:
            device.ready()
            assert isinstance(device.ask(GOOD), Answer)
            (broker,) = children(server.process.pid)
            os.kill(broker, signal.SIGSTOP)
            begun = time.monotonic()
            server.soon_says("broker")
            server.becomes(200)
            assert children(server.process.pid) != [broker]
            until(lambda: device.link.connected.is_set() and time.monotonic() - begun > 1)
            until(lambda: isinstance(device.ask(GOOD, budget_ms=2000), Answer))
            old = ["mosquitto_sub", "-p", str(port), "-t", "a", "-V", "mqttv311", "-i", "old-client"]
            for _ in range(2):
                subprocess.run(old, stderr=subprocess.DEVNULL, timeout=60, check=False)
            assert server.log().count("client 'old-client' at 127.0.0.1 is refused: it speaks MQTT 3.1.1") == 1
            assert "cachenet_server_broker_restarts_total 1.0" in get(server.port, "/metrics")[1]
        finally:
            device.link.stop()


def test_an_external_broker_that_is_deaf_is_said(tmp_path: Path, broker: Mosquitto) -> None:
    with served(tmp_path, "--broker", broker.url) as server:
        assert broker._process is not None
        broker._process.send_signal(signal.SIGSTOP)
        server.soon_says("broker")
        broker._process.send_signal(signal.SIGCONT)
        server.becomes(200)
        broker.kill()
        server.soon_says("nothing listens there")
        broker.start()
        server.becomes(200)


def test_a_broker_with_access_control_is_well_though_it_denies_the_probes_subscription(tmp_path: Path) -> None:
    broker = Deployed(tmp_path, "cam-a")
    broker.start()
    try:
        with served(tmp_path, *broker.flags("server")) as server:
            end = time.monotonic() + 8  # two probes at least
            while time.monotonic() < end:
                status, said = get(server.port, "/health")
                assert status == 200, said
                time.sleep(0.5)
            assert "WARNING" not in server.log() and "ERROR" not in server.log()
    finally:
        broker.kill()


def test_a_server_ends_at_once_though_its_broker_is_deaf(tmp_path: Path) -> None:
    with served(tmp_path, "--port", str(free_port())) as server:
        (broker,) = children(server.process.pid)
        os.kill(broker, signal.SIGSTOP)
        time.sleep(4)
        _, took = server.stop()
        assert took < 5
        assert not Path(f"/proc/{broker}").exists()
