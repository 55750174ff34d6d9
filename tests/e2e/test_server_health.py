"""/health reports a broker that is gone or does not respond within ten seconds, and its recovery."""

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

#: Longest time until /health reports a broken broker, seconds.
_PROMISED_S = 10.0
#: Additional time for a busy machine, seconds.
_SPARE_S = 10.0


class ObservedServer(ServerProcess):
    """A server whose /health the test reads."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.port = free_port()
        bundle = str(tiny_bundle(directory / "bundle"))
        super().__init__(directory, "--bundle", bundle, "--metrics", str(self.port), *flags)
        until(lambda: "serving" in self.log() or self.process.poll() is not None)
        self.becomes(200)

    def becomes(self, status: int) -> str:
        """Wait until /health has this status. Its reason."""
        until(lambda: get(self.port, "/health")[0] == status, f"/health never had status {status}: {self.log()}")
        return str(json.loads(get(self.port, "/health")[1]).get("why", ""))

    def soon_reports(self, why: str) -> None:
        """Wait until /health has status 503 and this reason."""
        started = time.monotonic()
        until(lambda: get(self.port, "/health")[0] == 503)
        assert time.monotonic() - started < _PROMISED_S + _SPARE_S
        until(lambda: why in get(self.port, "/health")[1])


@contextmanager
def served(directory: Path, *flags: str) -> Iterator[ObservedServer]:
    server = ObservedServer(directory, *flags)
    try:
        yield server
    finally:
        server.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_an_unresponsive_embedded_broker_is_reported_and_restarted_and_a_device_reconnects(tmp_path: Path) -> None:
    port = free_port()
    with served(tmp_path, "--port", str(port)) as server:
        device = Device(port)
        try:
            device.ready()
            assert isinstance(device.ask(GOOD), Answer)
            (broker,) = children(server.process.pid)
            os.kill(broker, signal.SIGSTOP)
            started = time.monotonic()
            server.soon_reports("broker")
            server.becomes(200)
            assert children(server.process.pid) != [broker]
            until(lambda: device.link.connected.is_set() and time.monotonic() - started > 1)
            until(lambda: isinstance(device.ask(GOOD, budget_ms=2000), Answer))
            later = Device(port, "later")
            later.ready()  # the new broker holds the catalogue, too
            later.link.stop()
            old = ["mosquitto_sub", "-p", str(port), "-t", "a", "-V", "mqttv311", "-i", "old-client"]
            for _ in range(2):
                subprocess.run(old, stderr=subprocess.DEVNULL, timeout=60, check=False)
            assert server.log().count("client 'old-client' at 127.0.0.1 is refused: it speaks MQTT 3.1.1") == 1
            assert "cachenet_server_broker_restarts_total 1.0" in get(server.port, "/metrics")[1]
        finally:
            device.link.stop()


def test_an_unresponsive_external_broker_is_reported(tmp_path: Path, broker: Mosquitto) -> None:
    with served(tmp_path, "--broker", broker.url) as server:
        assert broker._process is not None
        broker._process.send_signal(signal.SIGSTOP)
        server.soon_reports("broker")
        broker._process.send_signal(signal.SIGCONT)
        server.becomes(200)
        broker.kill()
        server.soon_reports("nothing listens there")
        broker.start()
        server.becomes(200)


def test_a_broker_that_denies_the_probes_subscription_is_healthy(tmp_path: Path) -> None:
    broker = Deployed(tmp_path, "cam-a")
    broker.start()
    try:
        with served(tmp_path, *broker.flags("server")) as server:
            end = time.monotonic() + 8  # two probes at least
            while time.monotonic() < end:
                status, text = get(server.port, "/health")
                assert status == 200, text
                time.sleep(0.5)
            assert "WARNING" not in server.log() and "ERROR" not in server.log()
    finally:
        broker.kill()


def test_a_server_ends_quickly_while_its_broker_does_not_respond(tmp_path: Path) -> None:
    with served(tmp_path, "--port", str(free_port())) as server:
        (broker,) = children(server.process.pid)
        os.kill(broker, signal.SIGSTOP)
        time.sleep(4)
        _, seconds = server.stop()
        assert seconds < 5
        assert not Path(f"/proc/{broker}").exists()
