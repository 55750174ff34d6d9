"""What an operator watches, for Prometheus: the counters of the summary, read when somebody asks for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from edge_agent import report
from edge_agent.agent import Agent
from shared import endpoint as web
from shared.engine import resident_bytes

#: For how long a camera may show nothing before that is worth an alarm, seconds.
STILL_S = 30.0


class Figures(Collector):
    """Reads a running agent. What the hot loop writes meanwhile is seen before or after, never half.

    What is a camera's own has its name as a label; to Prometheus the empty name of an only one is no label.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        agent = self._agent
        latency = SummaryMetricFamily("cachenet_latency_seconds", "From frame to answer.", labels=["level", "camera"])
        for camera in agent.cameras:
            for name, own in list(camera.levels.items()):
                latency.add_metric([name, camera.name], own.count, own.total / 1000)
        yield latency
        each = [(camera.name, camera.tally) for camera in agent.cameras]
        frames = [(name, tally.levels()) for name, tally in each]
        yield _counters("cachenet_frames", "Frames by the level that answered.", "level", frames)
        late = [(name, tally.late) for name, tally in each]
        yield _counter("cachenet_late", "Answers that came after their frame had ended.", late)
        corrections = [(name, tally.corrections) for name, tally in each]
        yield _counter("cachenet_corrections", "Late answers that contradicted it.", corrections)
        dropped = [(camera.name, camera.source.dropped) for camera in agent.cameras]
        yield _counter("cachenet_dropped", "Frames that a live source has skipped.", dropped)
        broken = [(camera.name, camera.source.broken) for camera in agent.cameras]
        yield _counter("cachenet_broken", "Frames that could not be read.", broken)
        losses = [(camera.name, camera.source.losses) for camera in agent.cameras]
        yield _counter("cachenet_losses", "Times that a camera has stopped to give frames.", losses)
        evicted = [(camera.name, dict(camera.deployment.evicted)) for camera in agent.cameras]
        yield _counters("cachenet_evicted", "Submodels that had to go.", "reason", evicted)
        up, down = agent.traffic
        traffic = CounterMetricFamily("cachenet_bytes", "Payload to and from the broker.", labels=["way"])
        traffic.add_metric(["up"], up)
        traffic.add_metric(["down"], down)
        yield traffic
        yield GaugeMetricFamily("cachenet_resident_bytes", "Resident set size.", resident_bytes())
        connected = agent.link is not None and agent.link.connected.is_set()
        yield GaugeMetricFamily("cachenet_connected", "Whether there is a broker.", connected)
        yield from self._audits()

    def _audits(self) -> Iterator[Metric]:
        each = [(camera.name, report.audits(camera.hierarchy)) for camera in self._agent.cameras]
        found = [(name, audits) for name, audits in each if audits is not None]
        if not found:
            return
        for key, name, help_ in (
            ("frames", "cachenet_audit_frames", "Frames sent to be audited."),
            ("windows", "cachenet_audit_windows", "Windows judged."),
            ("alarms", "cachenet_audit_alarms", "Times that the promise was found broken."),
        ):
            yield _counter(name, help_, [(camera, audits[key]) for camera, audits in found])
        false = [(camera, audits["false_hits"]) for camera, audits in found]
        yield _counters("cachenet_audit_false_hits", "False hits found, by level.", "level", false)
        for key, name, help_ in (
            ("bound", "cachenet_false_hit_bound", "At most so many false hits a frame, 95 %."),
            ("threshold", "cachenet_threshold", "The risk up to which a guess is a hit."),
        ):
            gauge = GaugeMetricFamily(name, help_, labels=["camera"])
            for camera, audits in found:
                gauge.add_metric([camera], audits[key])
            yield gauge


def _counter(name: str, help_: str, cameras: Iterable[tuple[str, float]]) -> CounterMetricFamily:
    """One figure of each camera."""
    counter = CounterMetricFamily(name, help_, labels=["camera"])
    for camera, value in cameras:
        counter.add_metric([camera], value)
    return counter


def _counters(
    name: str, help_: str, label: str, cameras: Iterable[tuple[str, Mapping[Any, float]]]
) -> CounterMetricFamily:
    """Several figures of each camera, told apart by ``label``."""
    counter = CounterMetricFamily(name, help_, labels=[label, "camera"])
    for camera, values in cameras:
        for key, value in values.items():
            counter.add_metric([key, camera], value)
    return counter


class Health:
    """Whether an agent answers its cameras: there is a model, and frames come from each."""

    def __init__(self, agent: Agent, clock: Callable[[], float] = time.monotonic) -> None:
        self._agent, self._clock = agent, clock
        #: By camera: how many frames there were when it was looked at, and since when there have been that many.
        self._seen = {camera.name: (0, clock()) for camera in agent.cameras}

    def __call__(self) -> str:
        """Why it is not well; empty if it is."""
        now, ill = self._clock(), []
        for camera in self._agent.cameras:
            frames, since = self._seen[camera.name]
            if camera.tally.frames != frames:
                frames, since = self._seen[camera.name] = camera.tally.frames, now
            whose = f"{camera.name}: " if camera.name else ""
            if camera.hierarchy is None:
                ill.append(f"{whose}waiting for a model: {self._agent.trouble or 'it is on its way'}")
            elif now - since > STILL_S:
                trouble = camera.source.trouble or "is the camera there?"
                ill.append(f"{whose}no frame for {now - since:.0f} s; {trouble}")
        return "; ".join(ill)


def endpoint(agent: Agent, host: str, port: int) -> AbstractContextManager[int]:
    """Serve ``/metrics`` and ``/health``; see ``shared.endpoint.serve``."""
    return web.serve(Figures(agent), Health(agent), host, port)
