"""What an operator watches, for Prometheus: the counters of the summary, read when somebody asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from edge_agent import report
from edge_agent.agent import Agent
from edge_agent.source import Source
from shared import endpoint as web
from shared.engine import resident_bytes

#: For how long a camera may show nothing before that is worth an alarm, seconds.
STILL_S = 30.0


class Figures(Collector):
    """Reads a running agent. What the hot loop writes meanwhile is seen before or after, never half."""

    def __init__(self, agent: Agent, source: Source) -> None:
        self._agent, self._source = agent, source

    def collect(self) -> Iterator[Metric]:
        agent, tally = self._agent, self._agent.tally
        frames = CounterMetricFamily("cachenet_frames", "Frames by the level that answered.", labels=["level"])
        for level, count in tally.levels().items():
            frames.add_metric([level], count)
        yield frames
        latency = SummaryMetricFamily("cachenet_latency_seconds", "From frame to answer.", labels=["level"])
        for name, own in list(agent.levels.items()):
            latency.add_metric([name], own.count, own.total / 1000)
        yield latency
        yield CounterMetricFamily("cachenet_late", "Answers that came after their frame had ended.", tally.late)
        yield CounterMetricFamily("cachenet_corrections", "Late answers that contradicted it.", tally.corrections)
        yield CounterMetricFamily("cachenet_dropped", "Frames that a live source has skipped.", self._source.dropped)
        yield CounterMetricFamily("cachenet_broken", "Frames that could not be read.", self._source.broken)
        up, down = agent.traffic
        traffic = CounterMetricFamily("cachenet_bytes", "Payload to and from the broker.", labels=["way"])
        traffic.add_metric(["up"], up)
        traffic.add_metric(["down"], down)
        yield traffic
        evicted = CounterMetricFamily("cachenet_evicted", "Submodels that had to go.", labels=["reason"])
        for reason, count in list(agent.deployment.evicted.items()):
            evicted.add_metric([reason], count)
        yield evicted
        yield GaugeMetricFamily("cachenet_resident_bytes", "Resident set size.", resident_bytes())
        connected = agent.link is not None and agent.link.connected.is_set()
        yield GaugeMetricFamily("cachenet_connected", "Whether there is a broker.", connected)
        yield from self._audits()

    def _audits(self) -> Iterator[Metric]:
        found = report.audits(self._agent.hierarchy)
        if found is None:
            return
        yield CounterMetricFamily("cachenet_audit_frames", "Frames sent to be audited.", found["frames"])
        yield CounterMetricFamily("cachenet_audit_windows", "Windows judged.", found["windows"])
        yield CounterMetricFamily("cachenet_audit_alarms", "Times that the promise was found broken.", found["alarms"])
        false = CounterMetricFamily("cachenet_audit_false_hits", "False hits found, by level.", labels=["level"])
        for level, count in found["false_hits"].items():
            false.add_metric([level], count)
        yield false
        yield GaugeMetricFamily("cachenet_false_hit_bound", "At most so many false hits a frame, 95 %.", found["bound"])
        yield GaugeMetricFamily("cachenet_threshold", "The risk up to which a guess is a hit.", found["threshold"])


class Health:
    """Whether an agent answers its camera: there is a model, and frames come."""

    def __init__(self, agent: Agent, clock: Callable[[], float] = time.monotonic) -> None:
        self._agent, self._clock = agent, clock
        #: How many frames there were when it was looked at, and since when there have been that many.
        self._seen, self._since = 0, clock()

    def __call__(self) -> str:
        """Why it is not well; empty if it is."""
        agent, now = self._agent, self._clock()
        if (frames := agent.tally.frames) != self._seen:
            self._seen, self._since = frames, now
        if agent.hierarchy is None:
            trouble = agent.keeper.trouble or (agent.link.trouble if agent.link is not None else "")
            return f"waiting for a model: {trouble or 'it is on its way'}"
        still = now - self._since
        return f"no frame for {still:.0f} s; is the camera there?" if still > STILL_S else ""


def endpoint(agent: Agent, source: Source, host: str, port: int) -> AbstractContextManager[int]:
    """Serve ``/metrics`` and ``/health``; see ``shared.endpoint.serve``."""
    return web.serve(Figures(agent, source), Health(agent), host, port)
