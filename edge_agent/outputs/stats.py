"""Figures of the device over MQTT, for the fleet page: the counters of the summary, once a minute.

The broker keeps the newest message for three periods, so that a reader need not wait for the next one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.doctor.health import Health
from cachenet.edge_agent.outputs import report
from cachenet.edge_agent.outputs.report import LatencyHistogram
from cachenet.shared.cascade.types import LOCAL_LEVELS
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.transport import protocol
from cachenet.shared.transport.fleet import Recent, Stats

#: Periods after which the broker drops the newest message.
RETAINED_PERIODS = 3
#: Time from the start to the first message, seconds, if the period is not shorter.
_FIRST_S = 5.0
#: Longest text of the faults, characters.
_MAX_FAULTS = 500
#: Levels that answer on the device itself.
_ON_DEVICE = (*LOCAL_LEVELS, "full")


class DeviceStats:
    """Reads the figures of a running agent; each call begins the period of the next."""

    def __init__(self, agent: Agent, health: Health) -> None:
        self._agent, self._health = agent, health
        self._begun = time.monotonic()
        self._levels: dict[str, int] = {}
        self._latencies = LatencyHistogram()

    def __call__(self) -> Stats:
        cameras = self._agent.cameras
        levels: dict[str, int] = {}
        latencies = LatencyHistogram()
        for camera in cameras:
            for level, count in camera.tally.levels().items():
                levels[level] = levels.get(level, 0) + count
            latencies = latencies.with_(camera.latencies)
        recent = _recent(levels, self._levels, latencies.since(self._latencies))
        self._levels, self._latencies = levels, latencies
        own = [(camera, audits) for camera in cameras if (audits := report.audits(camera.cascade)) is not None]
        error, budget = None, 0.0
        for camera, audits in own:
            if (agreement := audits["agreement"]) is None:
                continue
            bounds = tuple(round(1.0 - agreement[name], 5) for name in ("estimate", "high", "low"))
            if error is None or bounds[2] > error[2]:
                manifest = camera.active_bundle.manifest
                error = bounds
                budget = camera.settings.budget_for(manifest.task)[1] if manifest is not None else 0.0
        return Stats(
            bundle=cameras[0].version if cameras else "",
            seconds=round(time.monotonic() - self._begun, 1),
            period_s=self._agent.settings.stats,
            levels=levels,
            asked=sum(report.asked(camera.tally, camera.audited) for camera in cameras),
            errors=sum(camera.errors + sum(dict(camera.active_bundle.failures).values()) for camera in cameras),
            audits=sum(audits["judged"] for _, audits in own),
            wrong=round(float(sum(audits["wrong"] for _, audits in own)), 4),
            alarms=sum(audits["alarms"] for _, audits in own),
            error=error,
            budget=budget,
            recent=recent,
            faults=self._health()[:_MAX_FAULTS],
            at=time.time(),
        )


def _recent(levels: dict[str, int], before: dict[str, int], latencies: LatencyHistogram) -> Recent:
    changes = {level: count - before.get(level, 0) for level, count in levels.items()}
    frames = sum(changes.values())
    local = sum(changes.get(level, 0) for level in _ON_DEVICE)
    return Recent(
        frames,
        round(local / max(1, frames), 4),
        round(changes.get("fallback", 0) / max(1, frames), 4),
        round(latencies.percentile(0.5), 2),
        round(latencies.percentile(0.95), 2),
    )


class StatsPublisher:
    """Publishes the figures with a thread of its own. ``health``: must observe every answered frame."""

    def __init__(self, agent: Agent, health: Health) -> None:
        assert agent.link is not None
        self.health = health
        self._read, self._link = DeviceStats(agent, health), agent.link
        self._topic = protocol.topic(agent.settings.device, "stats")
        self._period_s = agent.settings.stats
        self._wait_s = min(_FIRST_S, self._period_s)
        self._thread = SupervisedThread("stats", self._step)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Publish while the block runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._thread.stop(1.0)

    def _step(self) -> None:
        if not self._thread.stopping.wait(self._wait_s):
            self._wait_s = self._period_s
            self.publish()

    def publish(self) -> bool:
        """Publish the figures now. Returns whether they were sent."""
        expiry_s = max(1, round(RETAINED_PERIODS * self._period_s))
        return self._link.publish(self._topic, protocol.describe(self._read()), retain=True, expiry_s=expiry_s)
