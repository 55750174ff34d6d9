"""Prometheus metrics: the counters of the summary, collected at each request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera import Camera
from cachenet.edge_agent.doctor.health import Health
from cachenet.edge_agent.outbox.backlog import Counts
from cachenet.edge_agent.outputs import report
from cachenet.edge_agent.sources import Source
from cachenet.shared.command import metrics_endpoint as web
from cachenet.shared.command.supervision import failures as thread_failures
from cachenet.shared.inference.engine import resident_bytes

#: Labels of the metrics of a camera or zone; an empty label is none.
_OF_CAMERA = ["camera", "zone"]
#: Counters with one value for each camera or zone: name, help and value.
_COUNTERS: dict[str, tuple[str, Callable[[Camera], float]]] = {
    "late": ("Replies after the deadline of their frame.", lambda camera: camera.tally.late),
    "corrections": ("Late replies that corrected a fallback.", lambda camera: camera.tally.corrections),
    "overruled": (
        "Answers that differ from the full model's label of the frame.",
        lambda camera: camera.tally.overruled,
    ),
    "unknown": (
        "Answers without a label: pictures out of the bundle's distribution.",
        lambda camera: camera.tally.unknown,
    ),
    "scene_changes": ("Changes of the whole picture.", lambda camera: camera.tally.scene_changes),
    "asked": (
        "Frames that needed the full model, audited hits included.",
        lambda camera: report.asked(camera.tally, camera.audited),
    ),
    "audited": ("Hits sent to be audited.", lambda camera: camera.audited),
    "frame_errors": ("Frames without an answer because of an unexpected error.", lambda camera: camera.errors),
}
#: Counters with one value for each source.
_OF_SOURCE: dict[str, tuple[str, Callable[[Source], float]]] = {
    "dropped": ("Frames that a live source has dropped.", lambda source: source.dropped),
    "broken": ("Frames that could not be read.", lambda source: source.broken),
    "losses": ("Losses of a camera.", lambda source: source.losses),
}


class MetricsCollector(Collector):
    """Collects the metrics of a running agent."""

    def __init__(self, agent: Agent, health: Health) -> None:
        self._agent, self._health = agent, health

    def collect(self) -> Iterator[Metric]:
        agent, cameras = self._agent, self._agent.cameras
        latency = SummaryMetricFamily("cachenet_latency_seconds", "Latency of answers.", labels=["level", *_OF_CAMERA])
        for camera in cameras:
            for name, own in list(camera.levels.items()):
                latency.add_metric([name, camera.name, camera.zone], own.count, own.total / 1000)
        yield latency
        for name, help_, label, values in (
            ("frames", "Frames by the level that answered them.", "level", lambda camera: camera.tally.levels()),
            ("evicted", "Evicted models.", "reason", lambda camera: dict(camera.active_bundle.evicted)),
            ("model_failures", "Failed runs of a model.", "model", lambda camera: dict(camera.active_bundle.failures)),
        ):
            yield _counters(f"cachenet_{name}", help_, label, [(camera, values(camera)) for camera in cameras])
        age = GaugeMetricFamily(
            "cachenet_last_answer_age_seconds", "Time since the last answered frame or the start.", labels=_OF_CAMERA
        )
        for names, seconds in self._health.ages().items():
            age.add_metric([*names], seconds)
        yield age
        for name, (help_, value) in _COUNTERS.items():
            yield _counter(f"cachenet_{name}", help_, [(camera, value(camera)) for camera in cameras])
        for name, (help_, of_source) in _OF_SOURCE.items():
            counter = CounterMetricFamily(f"cachenet_{name}", help_, labels=["camera"])
            for loop in agent.loops:
                counter.add_metric([loop.name], of_source(loop.source))
            yield counter
        threads = CounterMetricFamily("cachenet_thread_failures", "Unexpected errors by thread.", labels=["thread"])
        for thread, count in thread_failures().items():
            threads.add_metric([thread], count)
        yield threads
        if agent.updater is not None and agent.updater.state:
            update = GaugeMetricFamily("cachenet_update", "State of the newest update.", labels=["state"])
            update.add_metric([agent.updater.state], 1)
            yield update
        if agent.outbox is not None:
            yield from _outbox(agent.outbox.counts())
        traffic = CounterMetricFamily("cachenet_bytes", "Payload to and from the broker.", labels=["way"])
        for direction, size in zip(("up", "down"), agent.traffic, strict=True):
            traffic.add_metric([direction], size)
        yield traffic
        yield GaugeMetricFamily("cachenet_resident_bytes", "Resident set size.", resident_bytes())
        connected = agent.link is not None and agent.link.connected.is_set()
        yield GaugeMetricFamily("cachenet_connected", "Whether the broker is connected.", connected)
        yield from self._audits()
        yield from self._objects()

    def _objects(self) -> Iterator[Metric]:
        """Objects of detectors in the last answer, in the whole picture and in each zone."""
        gauge = GaugeMetricFamily(
            "cachenet_objects", "Objects in the last answer; without a zone: all.", labels=["label", *_OF_CAMERA]
        )
        for camera in self._agent.cameras:
            if (last := camera.last_answered) is None or last.line.counts is None:
                continue
            for zone, counts in {"": last.line.counts, **(last.line.zone_counts or {})}.items():
                for label in camera.objects.labels.copy():  # a label that was found before is 0 now
                    gauge.add_metric([label, camera.name, zone], counts.get(label, 0))
        if gauge.samples:
            yield gauge

    def _audits(self) -> Iterator[Metric]:
        each = [(camera, report.audits(camera.cascade)) for camera in self._agent.cameras]
        found = [(camera, audits) for camera, audits in each if audits is not None]
        if not found:
            return
        # A new bundle version resets these counters; Prometheus takes that for a restart.
        for key, name, help_ in (
            ("judged", "cachenet_audit_judged", "Audited hits with a reply."),
            ("wrong", "cachenet_audit_wrong", "Audited hits with another label by the full model."),
            ("alarms", "cachenet_audit_alarms", "Alarms: hits disagree with the full model more often than allowed."),
        ):
            yield _counter(name, help_, [(camera, audits[key]) for camera, audits in found])
        threshold = GaugeMetricFamily("cachenet_threshold", "Highest risk of a hit.", labels=_OF_CAMERA)
        agreement = GaugeMetricFamily(
            "cachenet_agreement",
            "Estimated share of answers that agree with the full model, and its 95 % interval.",
            labels=["bound", *_OF_CAMERA],
        )
        for camera, audits in found:
            threshold.add_metric([camera.name, camera.zone], audits["threshold"])
            for bound, share in (audits["agreement"] or {}).items():
                agreement.add_metric([bound, camera.name, camera.zone], share)
        yield threshold
        yield agreement


def _outbox(counts: Counts) -> Iterator[Metric]:
    """Counters of the outbox."""
    for name, help_, count in (
        ("stored", "Frames stored while there was no server.", counts.stored),
        ("sent", "Stored frames that a server has answered.", counts.sent),
        ("damaged", "Damaged files of the outbox.", counts.damaged),
    ):
        yield CounterMetricFamily(f"cachenet_outbox_{name}", help_, count)
    dropped = CounterMetricFamily("cachenet_outbox_dropped", "Frames without an answer, by reason.", labels=["reason"])
    for reason, count in counts.dropped.items():
        dropped.add_metric([reason], count)
    yield dropped
    yield GaugeMetricFamily("cachenet_outbox_waiting", "Frames that are stored now.", counts.waiting)
    yield GaugeMetricFamily("cachenet_outbox_bytes", "Size of these frames.", counts.bytes)


def _counter(name: str, help_: str, cameras: Iterable[tuple[Camera, float]]) -> CounterMetricFamily:
    """A counter with one value for each camera or zone."""
    counter = CounterMetricFamily(name, help_, labels=_OF_CAMERA)
    for camera, value in cameras:
        counter.add_metric([camera.name, camera.zone], value)
    return counter


def _counters(
    name: str, help_: str, label: str, cameras: Iterable[tuple[Camera, Mapping[Any, float]]]
) -> CounterMetricFamily:
    """A counter with several values for each camera or zone, distinguished by ``label``."""
    counter = CounterMetricFamily(name, help_, labels=[label, *_OF_CAMERA])
    for camera, values in cameras:
        for key, value in values.items():
            counter.add_metric([key, camera.name, camera.zone], value)
    return counter


def endpoint(agent: Agent, host: str, port: int) -> AbstractContextManager[int]:
    """Serve ``/metrics`` and ``/health``; see ``shared.command.metrics_endpoint.serve``."""
    health = Health(agent)
    agent.observers.append(health.on_frame)
    return web.serve(MetricsCollector(agent, health), health, host, port)
