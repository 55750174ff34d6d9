"""A device's run, with a real broker and a real server, is replayed decision by decision."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.outputs import decision_log
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import open_source
from cachenet.models.data import cifar10, sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.simulator.cli import app
from cachenet.simulator.traces.replay import BadLog, events, replay
from tests.broker import Mosquitto, mosquitto
from tests.detectors import detector_bundle, footage, record
from tests.e2e.agents import AgentProcess
from tests.e2e.servers import ServerProcess

__all__ = ["mosquitto"]

ZOO = Path("models/zoo/cifar10")


def summary_of_a_run(
    broker: Mosquitto, directory: Path, bundle: Path, recorded: Path, log: Path, flags: tuple[str, ...]
) -> dict[str, Any]:
    """Summary of an agent that answers ``recorded`` with the help of a server, and logs its decisions to ``log``."""
    server = ServerProcess(directory, "--bundle", str(bundle), "--broker", broker.url)
    with closing(server):
        server.wait_for("connected to")
        agent = AgentProcess(
            directory,
            *(str(recorded), "--broker", broker.url, "--store", str(directory / "store")),
            *("--set", "audit_share=0.3", "--set", f"decision_log={log}", *flags),
        )
        return agent.finish()


@pytest.mark.parametrize("flags", [(), ("--deadline-ms", "3"), ("--mode", "async", "--set", "memory_budget=400MB")])
def test_every_decision_of_a_run_is_made_again_to_the_last_bit(
    mosquitto: Mosquitto, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """Whether answers come in time, late, or are not waited for."""
    images = sample.load()
    recorded, log = tmp_path / "stream", tmp_path / "flight.jsonl"
    streams.record_stream(streams.schedule("held", images.labels, 5, 150), images.images, recorded, cifar10.LABELS)
    flags = ("--set", "catalogue=cifar10", "--fps", "60", *flags)
    answers = summary_of_a_run(mosquitto, tmp_path, ZOO, recorded, log, flags)
    assert answers["frames"] == 150
    found = replay(log, Bundle(ZOO), recorded)
    assert found.first is None
    assert found.frames == 150
    assert found.identical == 150 + found.corrections
    output = CliRunner().invoke(app, ["replay", str(log), "--stream", str(recorded), "--json"])
    logged = json.loads(output.stdout)
    assert (logged["frames"], logged["identical"]) == (150, 150 + found.corrections)

    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines) + lines[-1][:-5])  # killed while it wrote
    assert replay(log, Bundle(ZOO), recorded).identical >= 149  # the last may have been a correction
    directory = next(n for n, line in enumerate(lines) if b'"complete"' in line)
    other = re.sub(rb'"label":(\d+)', lambda found: b'"label":%d' % (int(found[1]) + 1), lines[directory])
    log.write_bytes(b"".join([*lines[:directory], other, *lines[directory + 1 :]]))
    output = CliRunner().invoke(app, ["replay", str(log), "--stream", str(recorded)])
    assert output.exit_code == 1
    assert f"{149 + found.corrections} of {150 + found.corrections}" in output.stdout
    log.write_bytes(lines[0])
    with pytest.raises(BadLog, match="no answer"):
        replay(log, Bundle(ZOO), recorded)
    log.write_bytes(b"".join(lines[1:]))
    with pytest.raises(BadLog, match="does not begin"):
        replay(log, Bundle(ZOO), recorded)


def test_a_restart_with_learned_state_is_replayed_to_the_last_bit(tmp_path: Path) -> None:
    """The full model on the device teaches the first run, and the second begins with what that has learned."""
    images, bundle = sample.load(), Bundle(ZOO)
    recorded, log = tmp_path / "stream", tmp_path / "flight.jsonl"
    streams.record_stream(streams.schedule("held", images.labels, 5, 60), images.images, recorded, cifar10.LABELS)
    settings = Settings(provider="cpu", levels=("frames", "base", "full"), store=str(tmp_path), decision_log=str(log))
    learned = []
    for _ in range(2):
        agent = Agent(settings, [open_source(str(recorded), None)], (), None, bundle)
        agent.run(JsonLinesWriter(""))
        assert agent.cameras[0].tally.full > 0
        (begun,) = (event for event in events(log) if isinstance(event, decision_log.CascadeCreated))
        learned.append(begun.learned)
        found = replay(log, bundle, recorded)
        assert (found.first, found.identical) == (None, 60)
    assert not learned[0] and learned[1]


def test_a_run_with_late_boxes_of_a_server_is_replayed_to_the_last_bit(mosquitto: Mosquitto, tmp_path: Path) -> None:
    bundle, log = detector_bundle(tmp_path / "squares"), tmp_path / "decisions.jsonl"
    recorded = record(tmp_path / "stream", footage(120))
    flags = ("--set", "catalogue=squares", "--fps", "30")
    answers = summary_of_a_run(mosquitto, tmp_path, bundle, recorded, log, flags)
    assert answers["frames"] == 120 and answers["cloud"] == 0  # asynchronous by default
    assert answers["late"] > 5 and answers["audited"] > 5
    found = replay(log, Bundle(bundle), recorded)
    assert (found.first, found.frames, found.identical) == (None, 120, 120)
