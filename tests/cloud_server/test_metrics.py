"""Metrics and health of a running server."""

from __future__ import annotations

import json
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from cachenet.shared.transport.protocol import Answer
from tests.broker import Mosquitto, free_port
from tests.bundles import tiny_bundle
from tests.e2e.servers import GOOD, Device, ServerProcess, until
from tests.shared.test_metrics_endpoint import get


def metrics(port: int) -> dict[str, float]:
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(get(port, "/metrics")[1])
        for sample in family.samples
    }


def test_health_shows_the_broker_and_metrics_show_the_counts(tmp_path: Path, broker: Mosquitto) -> None:
    port = free_port()
    bundle = tiny_bundle(tmp_path / "bundle")
    flags = ["--bundle", str(bundle), "--broker", broker.url, "--metrics", str(port)]
    server, device = ServerProcess(tmp_path, *flags), Device(broker.port)
    try:
        device.ready()
        until(lambda: get(port, "/health")[0] == 200)
        assert isinstance(device.ask(GOOD), Answer)
        device.ask(GOOD, model="other")
        until(lambda: metrics(port)["cachenet_server_answers_total"])  # counted after the answer is sent
        values = metrics(port)
        assert values["cachenet_server_requests_total"] == 2
        assert values["cachenet_server_answers_total"] == values["cachenet_server_batches_total"] == 1
        assert values["cachenet_server_refusals_total unknown-model"] == 1
        assert values["cachenet_server_connected"] == 1
        assert values["cachenet_server_waiting"] == 0
        assert values["cachenet_server_bytes_total in"] >= 2 * len(GOOD)
        broker.kill()
        until(lambda: get(port, "/health")[0] == 503)
        until(lambda: "nothing listens there" in json.loads(get(port, "/health")[1])["why"])
        assert metrics(port)["cachenet_server_connected"] == 0
        broker.start()
        until(lambda: get(port, "/health")[0] == 200)
        counts, _ = server.stop()
        assert counts["requests"] == 2
    finally:
        server.close()
        device.link.stop()


def test_a_metrics_port_in_use_gives_one_line_and_exit_code_2(tmp_path: Path, broker: Mosquitto) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    flags = ["--bundle", str(bundle), "--broker", broker.url, "--metrics", str(broker.port)]
    server = ServerProcess(tmp_path, *flags)
    assert server.process.wait(60) == 2
    assert server.log() == f"cloud-server: --metrics {broker.port}: Address already in use\n"
    server.close()
