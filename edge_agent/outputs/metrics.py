"""What an operator watches, for Prometheus: the counters of the summary, read when somebody asks for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.doctor.health import Health
from cachenet.edge_agent.outputs import report
from cachenet.shared.command import metrics_endpoint as web
from cachenet.shared.command.supervision import failures as thread_failures
from cachenet.shared.inference.engine import resident_bytes


class MetricsCollector(Collector):
    """Reads a running agent. What the hot loop writes meanwhile is seen before or after, never half.

    What is a camera's own has its name as a label; to Prometheus the empty name of an only one is no label.
    """

    def __init__(self, agent: Agent, health: Health) -> None:
        self._agent, self._health = agent, health

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
        age = GaugeMetricFamily(
            "cachenet_last_answer_age_seconds", "Since the last answered frame, or the start.", labels=["camera"]
        )
        for name, seconds in self._health.ages().items():
            age.add_metric([name], seconds)
        yield age
        late = [(name, tally.late) for name, tally in each]
        yield _counter("cachenet_late", "Answers that came after their frame had ended.", late)
        corrections = [(name, tally.corrections) for name, tally in each]
        yield _counter("cachenet_corrections", "Late answers that contradicted it.", corrections)
        for key, name, help_ in (
            ("overruled", "cachenet_overruled", "Answers that differ from the full model's to their frame."),
            ("unknown", "cachenet_unknown", "Answers without a label: pictures that the bundle was not made for."),
            ("scene_changes", "cachenet_scene_changes", "Times that the whole picture has changed."),
        ):
            yield _counter(name, help_, [(camera, getattr(tally, key)) for camera, tally in each])
        asked = [(camera.name, report.asked(camera.tally, camera.audited)) for camera in agent.cameras]
        yield _counter("cachenet_asked", "Frames that needed the full model, audited hits included.", asked)
        audited = [(camera.name, camera.audited) for camera in agent.cameras]
        yield _counter("cachenet_audited", "Hits sent to be audited.", audited)
        dropped = [(camera.name, camera.source.dropped) for camera in agent.cameras]
        yield _counter("cachenet_dropped", "Frames that a live source has skipped.", dropped)
        broken = [(camera.name, camera.source.broken) for camera in agent.cameras]
        yield _counter("cachenet_broken", "Frames that could not be read.", broken)
        losses = [(camera.name, camera.source.losses) for camera in agent.cameras]
        yield _counter("cachenet_losses", "Times that a camera has stopped to give frames.", losses)
        evicted = [(camera.name, dict(camera.active_bundle.evicted)) for camera in agent.cameras]
        yield _counters("cachenet_evicted", "Submodels that had to go.", "reason", evicted)
        failures = [(camera.name, dict(camera.active_bundle.failures)) for camera in agent.cameras]
        yield _counters("cachenet_model_failures", "Runs of a model that have failed.", "model", failures)
        errors = [(camera.name, camera.errors) for camera in agent.cameras]
        yield _counter("cachenet_frame_errors", "Frames that an unexpected error has left unanswered.", errors)
        threads = CounterMetricFamily("cachenet_thread_failures", "Unexpected errors by thread.", labels=["thread"])
        for thread, count in thread_failures().items():
            threads.add_metric([thread], count)
        yield threads
        if agent.updater is not None and agent.updater.state:
            update = GaugeMetricFamily("cachenet_update", "How the newest update stands.", labels=["state"])
            update.add_metric([agent.updater.state], 1)
            yield update
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
        each = [(camera.name, report.audits(camera.cascade)) for camera in self._agent.cameras]
        found = [(name, audits) for name, audits in each if audits is not None]
        if not found:
            return
        # They begin again with every bundle version; to Prometheus that is a restart.
        for key, name, help_ in (
            ("judged", "cachenet_audit_judged", "Audited hits that the full model has judged."),
            ("wrong", "cachenet_audit_wrong", "Audited hits to which the full model gave another label."),
            ("alarms", "cachenet_audit_alarms", "Times that hits were found to disagree more often than allowed."),
        ):
            yield _counter(name, help_, [(camera, audits[key]) for camera, audits in found])
        threshold = GaugeMetricFamily(
            "cachenet_threshold", "The risk at or under which a label is a hit.", labels=["camera"]
        )
        agreement = GaugeMetricFamily(
            "cachenet_agreement",
            "Estimated share of answers that agree with the full model, and its 95 % interval.",
            labels=["bound", "camera"],
        )
        for camera, audits in found:
            threshold.add_metric([camera], audits["threshold"])
            for bound, share in (audits["agreement"] or {}).items():
                agreement.add_metric([bound, camera], share)
        yield threshold
        yield agreement


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


def endpoint(agent: Agent, host: str, port: int) -> AbstractContextManager[int]:
    """Serve ``/metrics`` and ``/health``; see ``shared.command.metrics_endpoint.serve``."""
    health = Health(agent)
    agent.observers.append(health.on_frame)
    return web.serve(MetricsCollector(agent, health), health, host, port)
