"""A log's stream is answered under other settings by the device's own code, and without changes as in the log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.remote import Outcome
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import open_source
from cachenet.models.data import cifar10, sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command.config import ConfigError
from cachenet.simulator.cli import app
from cachenet.simulator.report.what_if import measures
from cachenet.simulator.traces.questions import Outcomes, Question
from cachenet.simulator.traces.what_if import KEYS, WhatIf, parse, what_if
from tests.detectors import detector_bundle, footage, record
from tests.edge_agent.scenes import Server, agent_of, run

Made = tuple[Path, Bundle, Path]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Log, bundle and stream of detectors whose server answers two frames later."""
    directory = tmp_path_factory.mktemp("scenes")
    bundle, log = Bundle(detector_bundle(directory / "squares")), directory / "d.jsonl"
    recorded = record(directory / "stream", footage(90))
    agent, _ = agent_of(bundle, open_source(str(recorded)), Server(bundle, 2), decision_log=str(log), audit_share=0.3)
    run(agent)
    return log, bundle, recorded


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Log, bundle and stream of classifiers, whose full model answers on the device."""
    directory, bundle = tmp_path_factory.mktemp("pictures"), Bundle(Path("models/zoo/cifar10"))
    images, log, recorded = sample.load(), directory / "c.jsonl", directory / "stream"
    streams.record_stream(streams.schedule("held", images.labels, 5, 60), images.images, recorded, cifar10.LABELS)
    settings = Settings(
        provider="cpu",
        levels=("frames", "base", "full"),
        decision_log=str(log),
        early_exits="off",
        device="pi",
        deadline_ms=60_000,
    )
    Agent(settings, [open_source(str(recorded))], (), None, bundle).run(JsonLinesWriter(""))
    return log, bundle, recorded


def columns(made: Made, *changes: str) -> WhatIf:
    log, bundle, recorded = made
    return what_if(log, bundle, recorded, changes)


@pytest.mark.parametrize(("name", "change"), [("scenes", "audit_share=0.3"), ("pictures", "max_disagreement=0.02")])
def test_without_a_change_the_answers_are_those_of_the_log(
    name: str, change: str, request: pytest.FixtureRequest
) -> None:
    logged, same = columns(request.getfixturevalue(name), change).columns
    assert same.answers == logged.answers
    assert (same.errors, same.asked, same.nbytes) == (logged.errors, logged.asked, logged.nbytes)


def test_settings_change_what_is_asked_and_the_full_model_tells_the_error(scenes: Made) -> None:
    changes = ("audit_share=0", "mode=offline audit_share=0", "mode=wait levels=cloud deadline_ms=60000")
    found = columns(scenes, *changes)
    logged, unaudited, offline, all_asked = map(measures, found.columns)
    assert unaudited["asked"] < logged["asked"]
    assert (offline["asked"], offline["kilobytes"]) == (0.0, 0.0)
    # The log ends before the reply to its last question, so that question has none.
    assert (all_asked["asked"], all_asked["error"]) == (1.0, 0.0) and all_asked["levels"]["cloud"] >= 89 / 90
    assert logged["error"] > 0.0 and 0 < found.computed < 90
    again = columns(scenes, *changes)
    assert list(map(measures, again.columns)) == [logged, unaudited, offline, all_asked]


def test_a_question_that_the_device_could_not_send_counts_as_none(tmp_path: Path) -> None:
    class Away(Server):
        """Its connection is lost at the second question."""

        def post(self, miss: Any, picture: Any) -> Outcome:
            return super().post(miss, picture) if self.asked == 0 else Outcome(None, "not connected")

    bundle, log = Bundle(detector_bundle(tmp_path / "squares")), tmp_path / "d.jsonl"
    recorded, server = record(tmp_path / "stream", footage(30)), Away(bundle, None)
    settings = {"decision_log": str(log), "levels": ("cloud",), "audit_share": 0.0}
    run(agent_of(bundle, open_source(str(recorded)), server, **settings)[0])
    for column in columns((log, bundle, recorded), "audit_share=0", "deadline_ms=100").columns:
        assert sum(column.asked) == server.asked == 1


def test_on_frames_that_the_log_has_not_asked_about_the_full_model_of_the_bundle_answers(pictures: Made) -> None:
    strict = columns(pictures, "max_disagreement=0.0001").columns[1]
    logged = columns(pictures, "max_disagreement=0.02").columns[0]
    assert sum(one.level == "full" for one in strict.answers) > sum(one.level == "full" for one in logged.answers)
    assert all(not error for error, one in zip(strict.errors, strict.answers, strict=True) if one.level == "full")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("max_objct_error=0.1", "unknown key 'max_objct_error'; did you mean max_object_error?"),
        ("max_object_error=2", "--what-if max_object_error: "),
        ("source=clip.mp4", "--what-if source: a replay cannot change this setting; it can max_disagreement, "),
        ("broker=x", "--what-if broker: a replay cannot change this setting; it can max_disagreement, "),
        ("max_disagreement", "--what-if max_disagreement: write KEY=VALUE"),
        ("max_disagreement=0.1", "the budget of this bundle is max_object_error"),
    ],
)
def test_a_change_that_is_none_is_refused_with_one_line(change: str, message: str, scenes: Made) -> None:
    output = invoke(scenes, "--what-if", change)
    assert (output.exit_code, output.stderr.count("\n")) == (2, 1) and message in output.stderr


@pytest.mark.parametrize("flags", [(), ("--what-if", "max_object_error=0.05")])
def test_a_log_whose_events_do_not_fit_each_other_is_refused_with_one_line(
    flags: tuple[str, ...], scenes: Made, pictures: Made, tmp_path: Path
) -> None:
    lines, damaged = scenes[0].read_bytes().splitlines(keepends=True), tmp_path / "damaged.jsonl"
    first = next(index for index, line in enumerate(lines) if b'"scene-lookup"' in line)
    foreign = next(line for line in pictures[0].read_bytes().splitlines(keepends=True) if b'"complete"' in line)
    for events in (lines[:first] + lines[first + 1 : 30], [*lines[: first + 1], foreign, *lines[first + 1 : 30]]):
        damaged.write_bytes(b"".join(events))
        output = invoke((damaged, *scenes[1:]), *flags)
        assert (output.exit_code, output.stderr.count("\n")) == (2, 1), output.exception
        assert "damaged.jsonl" in output.stderr


def test_the_help_names_all_that_can_be_changed() -> None:
    shown = CliRunner().invoke(app, ["replay", "--help"]).stdout
    assert [key for key in KEYS if key not in shown] == []


def test_one_column_may_change_several_settings() -> None:
    assert parse("max_disagreement=0.05  levels=frames,base mode=wait") == {
        "max_disagreement": 0.05,
        "levels": ("frames", "base"),
        "mode": "wait",
    }
    with pytest.raises(ConfigError):
        parse("")


def test_a_question_that_the_log_has_not_gets_the_outcome_of_the_nearest_one() -> None:
    early, late = Question(0.1), Question(None, failure="no cloud")
    outcomes = Outcomes([10, 20], {10: early, 20: late})
    assert [outcomes.at(frame) for frame in (0, 14, 16, 99)] == [early, early, late, late]
    assert Outcomes([], {}).at(3).seconds == 0.0


def test_the_command_prints_a_column_for_each_set_of_settings(scenes: Made) -> None:
    output = invoke(scenes, "--what-if", "max_object_error=0.3", "--what-if", "levels=base,cloud")
    assert output.exit_code == 0 and all(len(line) <= 80 for line in output.stdout.splitlines())
    assert "B  max_object_error=0.3" in output.stdout and "C  levels=base,cloud" in output.stdout
    shown = json.loads(invoke(scenes, "--what-if", "max_object_error=0.3", "--json").stdout)
    assert [one["settings"] for one in shown["columns"]] == ["", "max_object_error=0.3"]
    assert all(sum(one["levels"].values()) == pytest.approx(1.0) for one in shown["columns"])


def invoke(made: Made, *arguments: str) -> Any:
    log, bundle, recorded = made
    return CliRunner().invoke(
        app, ["replay", str(log), "--stream", str(recorded), "--bundle", str(bundle.directory), *arguments]
    )
