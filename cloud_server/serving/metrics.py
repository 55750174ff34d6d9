"""Prometheus metrics of a running server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cachenet.cloud_server.broker.embedded import EmbeddedBroker
from cachenet.cloud_server.serving.server import Server
from cachenet.shared.command.supervision import failures
from cachenet.shared.inference.engine import resident_bytes


class MetricsCollector(Collector):
    """Reads the counters of a running server, and of the embedded broker if there is one."""

    def __init__(self, server: Server, broker: EmbeddedBroker | None = None) -> None:
        self._server, self._broker = server, broker

    def collect(self) -> Iterator[Metric]:
        counts = self._server.counters.read()
        restarts = 0 if self._broker is None else self._broker.restarts
        traffic = {"in": counts.bytes_in, "out": counts.bytes_out}
        for name, text, count in (
            ("requests", "Requests that name a device to reply to.", counts.requests),
            ("answers", "Requests with an answer.", counts.answers),
            ("throttled", "Requests refused because their device was over its quota.", counts.throttled),
            ("malformed", "Invalid messages, refused or ignored.", counts.malformed),
            ("lost", "Replies that could not be sent because the connection was down.", counts.lost),
            ("batches", "Runs of the full model.", counts.batches),
            ("chunks", "Chunks of model files sent.", counts.chunks),
            ("broker_restarts", "Restarts of the embedded broker.", restarts),
        ):
            yield CounterMetricFamily(f"cachenet_server_{name}", text, count)
        yield _labelled("refusals", "Refused requests by reason.", "reason", counts.refusals)
        yield _labelled("bytes", "Payload by direction: in, from devices; out, to devices.", "direction", traffic)
        yield _labelled("thread_failures", "Exceptions by thread.", "thread", failures())
        for name, text, value in (
            ("waiting", "Requests in the queue.", self._server.waiting),
            ("connected", "Brokers that the server is connected to.", self._server.connected),
            ("resident_bytes", "Resident set size of the process.", resident_bytes()),
        ):
            yield GaugeMetricFamily(f"cachenet_server_{name}", text, value)


def _labelled(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    """A counter with one label."""
    family = CounterMetricFamily(f"cachenet_server_{name}", text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
