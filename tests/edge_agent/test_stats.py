"""The figures that a device publishes are those of its summary."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.doctor.health import Health
from cachenet.edge_agent.outputs.report import JsonLinesWriter, LatencyHistogram
from cachenet.edge_agent.outputs.stats import DeviceStats, StatsPublisher
from cachenet.edge_agent.settings import Settings
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport.fleet import Stats, read
from cachenet.shared.transport.mqtt import MqttConnection
from tests.bundles import tiny_bundle
from tests.edge_agent.agents import Pictures, served
from tests.edge_agent.links import FakeLink


def test_the_stats_are_those_of_the_summary(tmp_path: Path) -> None:
    bundle = Bundle(tiny_bundle(tmp_path, risk=0.999))

    def same() -> int:
        answered = agent.cameras[0].last_answered
        return 0 if answered is None or answered.answer.label is None else answered.answer.label

    agent = served(Settings(levels=("base", "cloud"), audit_share=0.5), Pictures(40, same=True), bundle, same)
    health = Health(agent)
    agent.observers.append(health.on_frame)
    read_stats = DeviceStats(agent, health)
    agent.run(JsonLinesWriter(""))
    agent.cameras[0].errors += 1
    agent.cameras[0].active_bundle.failures["base"] += 2
    stats, summary = read_stats(), agent.summary()
    assert stats.bundle == bundle.version
    assert stats.recent.frames == sum(stats.levels.values()) == summary["frames"] == 40
    assert stats.recent.local == pytest.approx(sum(summary["hits"].values()) / 40, abs=1e-4)
    assert stats.recent.latency_ms == pytest.approx(summary["latency_ms"]["p50"], abs=0.01)
    assert stats.errors == 3
    assert (stats.audits, stats.wrong) == (summary["audits"]["judged"], 0)
    assert stats.error is not None
    assert stats.error[0] == 0.0
    assert stats.error[2] == pytest.approx(1 - summary["audits"]["agreement"]["low"], abs=1e-4)
    assert stats.budget == Settings().max_disagreement
    again = read_stats()
    assert again.recent.frames == 0
    assert again.levels == stats.levels


def test_a_device_without_a_model_has_stats(tmp_path: Path) -> None:
    agent = Agent(Settings(), [Pictures(0)], None, None, Bundle(tiny_bundle(tmp_path)))
    stats = DeviceStats(agent, Health(agent))()
    assert (stats.bundle, stats.error) == ("", None)
    assert "waiting for a model" in stats.faults


def test_the_broker_drops_old_stats(tmp_path: Path) -> None:
    sent: list[tuple[str, bytes, dict[str, Any]]] = []
    agent = Agent(Settings(device="cam", stats=20.0), [Pictures(0)], None, None, Bundle(tiny_bundle(tmp_path)))
    agent.link = cast(MqttConnection, FakeLink(lambda *message: sent.append(message) or True))
    assert StatsPublisher(agent, Health(agent)).publish()
    ((topic, payload, options),) = sent
    assert topic == "cachenet/2/cam/stats"
    assert options == {"qos": 0, "retain": True, "expiry_s": 60}
    assert read(payload, Stats).period_s == 20.0
    assert len(payload) < 1024


def test_latencies_of_a_period_are_those_added_in_it() -> None:
    latencies = LatencyHistogram()
    latencies.add(100.0)
    before = latencies.with_(LatencyHistogram())
    for _ in range(9):
        latencies.add(2.0)
    since = latencies.since(before)
    assert (since.count, since.mean) == (9, 2.0)
    assert since.percentile(0.95) == pytest.approx(2.0, rel=0.02)
