"""What an operator watches of a server: the counts that it prints at its end, read while it runs."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cachenet.cloud_server.broker.embedded import EmbeddedBroker
from cachenet.cloud_server.serving.server import Server
from cachenet.shared.command.supervision import failures
from cachenet.shared.inference.engine import resident_bytes


class MetricsCollector(Collector):
    """Reads a running server."""

    def __init__(self, server: Server, broker: EmbeddedBroker | None = None) -> None:
        """``broker``: the embedded broker, if there is one."""
        self._server, self._broker = server, broker

    def collect(self) -> Iterator[Metric]:
        counts = self._server.counters.read()
        yield CounterMetricFamily("cachenet_server_requests", "Questions with someone to answer.", counts.requests)
        yield CounterMetricFamily("cachenet_server_answers", "Questions answered.", counts.answers)
        refusals = CounterMetricFamily("cachenet_server_refusals", "Questions refused.", labels=["reason"])
        for reason, count in counts.refusals.items():
            refusals.add_metric([reason], count)
        yield refusals
        yield CounterMetricFamily("cachenet_server_malformed", "Messages that make no sense.", counts.malformed)
        yield CounterMetricFamily("cachenet_server_lost", "Answers that met no connection.", counts.lost)
        yield CounterMetricFamily("cachenet_server_batches", "Runs of the full model.", counts.batches)
        yield CounterMetricFamily("cachenet_server_chunks", "Pieces of model files given out.", counts.chunks)
        traffic = CounterMetricFamily("cachenet_server_bytes", "Payload from and to devices.", labels=["way"])
        traffic.add_metric(["in"], counts.bytes_in)
        traffic.add_metric(["out"], counts.bytes_out)
        yield traffic
        yield GaugeMetricFamily("cachenet_server_waiting", "Questions in the queue.", self._server.waiting)
        yield GaugeMetricFamily("cachenet_server_connected", "Whether there is a broker.", self._server.connected)
        restarts = 0 if self._broker is None else self._broker.restarts
        yield CounterMetricFamily("cachenet_server_broker_restarts", "Restarts of the embedded broker.", restarts)
        failed = CounterMetricFamily("cachenet_server_thread_failures", "Exceptions by thread.", labels=["thread"])
        for name, count in failures().items():
            failed.add_metric([name], count)
        yield failed
        yield GaugeMetricFamily("cachenet_server_resident_bytes", "Resident set size.", resident_bytes())
