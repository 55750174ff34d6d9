"""What Prometheus reads of a running agent."""

from __future__ import annotations

import re
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.outputs.metrics import endpoint
from cachenet.edge_agent.outputs.report import JsonLinesWriter, View
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.updates.store import Store
from cachenet.edge_agent.zones import Zone
from cachenet.shared.bundle.manifest import Bundle
from tests.bundles import tiny_bundle
from tests.edge_agent.agents import Pictures, install_current, install_files, served
from tests.edge_agent.frames import detected_frame, tracked

Metrics = dict[tuple[str, str], float]


def read(port: int) -> Metrics:
    """Samples by name and, where they have one, level."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {
        (sample.name, sample.labels.get("level", "")): sample.value for family in families for sample in family.samples
    }


def test_the_levels_counters_add_up_to_the_frames_before_and_after_a_run(tmp_path: Path) -> None:
    agent = Agent(Settings(), [Pictures(30)], (), None, Bundle(tiny_bundle(tmp_path)))
    with endpoint(agent, "127.0.0.1", 0) as port:
        before = read(port)
        agent.run(JsonLinesWriter(""))
        after = read(port)
    assert sum(value for (name, _), value in before.items() if name == "cachenet_frames_total") == 0
    by_level = {level: value for (name, level), value in after.items() if name == "cachenet_frames_total"}
    assert sum(by_level.values()) == 30
    assert by_level["base"] == agent.cameras[0].tally.hits["base"] > 0
    assert after["cachenet_latency_seconds_count", "base"] == by_level["base"]
    assert after["cachenet_latency_seconds_sum", "base"] > 0
    assert after["cachenet_resident_bytes", ""] > 1 << 20
    assert after["cachenet_connected", ""] == 0
    assert 0 <= after["cachenet_last_answer_age_seconds", ""] < 60


def test_the_metrics_have_audits_and_agreement(tmp_path: Path) -> None:
    """Of a camera that its audits find nothing wrong with."""
    bundle = Bundle(tiny_bundle(tmp_path, risk=0.999))

    def same() -> int:
        answered = agent.cameras[0].last_answered
        return 0 if answered is None or answered.answer.label is None else answered.answer.label

    agent = served(Settings(levels=("base", "cloud"), audit_share=0.5), Pictures(40, same=True), bundle, same)
    with endpoint(agent, "127.0.0.1", 0) as port:
        agent.run(JsonLinesWriter(""))
        after = {name: value for (name, _), value in read(port).items()}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    camera = agent.cameras[0]
    assert after["cachenet_overruled_total"] == after["cachenet_unknown_total"] == 0
    assert after["cachenet_scene_changes_total"] == 0
    assert after["cachenet_audited_total"] == camera.audited > 0
    assert after["cachenet_asked_total"] == camera.tally.cloud + camera.audited
    assert after["cachenet_audit_judged_total"] > 0
    assert after["cachenet_audit_wrong_total"] == after["cachenet_audit_alarms_total"] == 0
    for bound in ("estimate", "low", "high"):
        assert f'cachenet_agreement{{bound="{bound}",camera="",zone=""}}' in text
    assert 'cachenet_agreement{bound="estimate",camera="",zone=""} 1.0' in text


def test_the_state_of_an_update_and_what_has_failed_are_there(tmp_path: Path) -> None:
    bundle = Bundle(tiny_bundle(tmp_path / "bundle"))
    store = install_current(install_files(Store(tmp_path / "store"), bundle), bundle.data)
    agent = Agent(Settings(), [Pictures(0)], (), store, None)
    agent.cameras[0].active_bundle.failures["base"] += 2
    agent.cameras[0].errors += 1
    with (
        endpoint(agent, "127.0.0.1", 0) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer,
    ):
        text = answer.read().decode()
    assert 'cachenet_update{state="committed"} 1.0' in text
    assert 'cachenet_model_failures_total{camera="",model="base",zone=""} 2.0' in text
    assert 'cachenet_frame_errors_total{camera="",zone=""} 1.0' in text
    assert "# TYPE cachenet_thread_failures_total counter" in text


def test_the_port_is_free_again_afterwards(tmp_path: Path) -> None:
    agent = Agent(Settings(), [Pictures(0)], (), None, Bundle(tiny_bundle(tmp_path)))
    with (
        endpoint(agent, "127.0.0.1", 0) as port,
        pytest.raises(OSError, match="in use"),
        endpoint(agent, "127.0.0.1", port),
    ):
        raise AssertionError("two on one port")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def test_objects_of_a_detector_are_counted_by_label_and_zone_and_are_0_when_they_have_gone(tmp_path: Path) -> None:
    agent = Agent(Settings(), [Pictures(0)], (), None, Bundle(tiny_bundle(tmp_path)))
    camera, view = agent.cameras[0], View(zones=(Zone("gate", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))),))
    for objects in (
        [tracked(1, (0.1, 0.1, 0.1, 0.1)), tracked(2, (0.8, 0.1, 0.1, 0.1))],
        [tracked(2, (0, 0, 1, 1), 1)],
    ):
        camera.last_answered = detected_frame(objects, view=view)
        camera.objects.add(camera.last_answered.line.counts or {})
    with (
        endpoint(agent, "127.0.0.1", 0) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer,
    ):
        text = answer.read().decode()
    for label, zone, number in (("person", "", 0), ("person", "gate", 0), ("car", "", 1), ("car", "gate", 0)):
        assert f'cachenet_objects{{camera="",label="{label}",zone="{zone}"}} {number}.0' in text


def test_a_classifier_has_no_objects_and_each_of_its_zones_its_own_metrics(tmp_path: Path) -> None:
    zones = tuple(Zone(name, ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0))) for name in ("gate", "bay"))
    agent = Agent(Settings(zone=zones), [Pictures(3)], (), None, Bundle(tiny_bundle(tmp_path)))
    with endpoint(agent, "127.0.0.1", 0) as port:
        agent.run(JsonLinesWriter(""))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    assert "cachenet_objects" not in text
    assert text.count("\ncachenet_dropped_total{") == 1, "zones share the source"
    for zone in ("gate", "bay"):
        assert re.search(rf'cachenet_latency_seconds_count{{camera="",level="\w+",zone="{zone}"}}', text)
        assert f'cachenet_last_answer_age_seconds{{camera="",zone="{zone}"}}' in text
