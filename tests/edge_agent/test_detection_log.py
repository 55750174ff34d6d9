"""A run with a bundle of detectors is replayed from its decision log, and continues from its learner state."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cachenet.edge_agent import learner_file
from cachenet.edge_agent.learner_state import LearnerState, encode
from cachenet.edge_agent.outputs.decision_log import logged_motion, logged_objects, motion_of
from cachenet.edge_agent.sources import open_source
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.detect.detections import checked
from cachenet.shared.cascade.detect.scene_estimator import SceneEstimator
from cachenet.shared.cascade.detect.types import Motion, SceneReply
from cachenet.simulator.cli import app
from cachenet.simulator.traces.replay import BadLog, replay
from tests.detectors import detector_bundle, footage, record
from tests.edge_agent.scenes import Server, agent_of, run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(detector_bundle(tmp_path_factory.mktemp("squares")))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("stream") / "recorded", footage(90))


@pytest.mark.parametrize(
    ("delay", "settings"),
    [
        (None, {}),  # no server: the full model on the device
        (1, {"audit_share": 0.3}),
        (4, {"audit_share": 0.3, "levels": ("frames", "cloud")}),  # carried tracks alone
        (2, {"region": "0.1,0,0.8,1", "audit_share": 0.3, "memory_budget": "2000MB"}),
    ],
)
def test_every_answer_of_a_run_is_repeated_to_the_last_bit_without_optical_flow(
    delay: int | None,
    settings: dict[str, Any],
    bundle: Bundle,
    recorded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = tmp_path / "decisions.jsonl"
    server = Server(bundle, delay) if delay is not None else None
    agent, answers = agent_of(bundle, open_source(str(recorded)), server, decision_log=str(log), **settings)
    run(agent)
    assert any(answer.objects for answer in answers)
    monkeypatch.setattr(cv2, "calcOpticalFlowPyrLK", None)
    found = replay(log, bundle, recorded)
    assert (found.first, found.frames, found.identical) == (None, 90, 90)

    other = re.sub(rb'"track":(\d+)', lambda track: b'"track":%d' % (int(track[1]) + 1), log.read_bytes())
    log.write_bytes(other)
    found = replay(log, bundle, recorded)
    assert found.first is not None and found.identical < 90


def test_a_log_that_ends_within_a_line_is_replayed_up_to_that_and_a_line_says_so(
    bundle: Bundle, recorded: Path, tmp_path: Path
) -> None:
    """As after a power cut, or on a full disk."""
    log = tmp_path / "decisions.jsonl"
    agent, _ = agent_of(bundle, open_source(str(recorded)), Server(bundle, 2), decision_log=str(log))
    run(agent)
    command = ["replay", str(log), "--stream", str(recorded), "--bundle", str(bundle.directory)]
    whole = CliRunner().invoke(app, command)
    assert (whole.exit_code, whole.stderr) == (0, "")
    complete = log.read_bytes().rindex(b'"frame":89')
    log.write_bytes(log.read_bytes()[:complete])
    found = replay(log, bundle, recorded)
    assert found.truncated and found.first is None and found.identical == found.frames == 89
    output = CliRunner().invoke(app, [*command, "--json"])
    assert output.exit_code == 0
    assert json.loads(output.stdout)["truncated"] is True
    assert output.stderr.count("\n") == 1 and "ends within a line, which is not replayed" in output.stderr


def test_a_log_of_other_motion_is_no_log_of_these_objects(bundle: Bundle, recorded: Path, tmp_path: Path) -> None:
    log = tmp_path / "decisions.jsonl"
    agent, _ = agent_of(bundle, open_source(str(recorded)), Server(bundle, 2), decision_log=str(log))
    run(agent)
    whole = log.read_bytes()
    for other in (b"[]", b'["AAAA"]'):
        log.write_bytes(re.sub(rb'"motions":\[[^]]*\]', b'"motions":' + other, whole))
        with pytest.raises(BadLog, match="no motion of these objects"):
            replay(log, bundle, recorded)
    log.write_bytes(re.sub(rb'"boxes":\[\[[^,]+,', b'"boxes":[[', whole))  # three numbers
    with pytest.raises(BadLog, match=r"decisions\.jsonl, after \d+ answers: "):
        replay(log, bundle, recorded)


_floats = st.floats(-1, 1, width=32)


@given(st.lists(st.tuples(_floats, _floats, _floats), max_size=5))
def test_motion_is_logged_without_loss(rows: list[tuple[float, float, float]]) -> None:
    table = np.array(rows, np.float32).reshape(-1, 3)
    again = motion_of(logged_motion(Motion(table[:, :2], table[:, 2])))
    np.testing.assert_array_equal(again.shifts, table[:, :2])
    np.testing.assert_array_equal(again.consistency, table[:, 2])


@given(st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 5), max_size=5))
def test_replies_are_logged_without_loss(rows: list[tuple[float, ...]]) -> None:
    table = np.array(rows, np.float32).reshape(-1, 5)
    reply = SceneReply(7, checked(table[:, :4], np.zeros(len(table), int), table[:, 4], 1), "near", True)
    logged = logged_objects(reply)
    again = msgspec.json.decode(msgspec.json.encode(logged), type=type(logged)).reply()
    for name in ("boxes", "labels", "scores"):
        np.testing.assert_array_equal(getattr(again.detections, name), getattr(reply.detections, name))
    assert (again.frame, again.submodel, again.on_device) == (7, "near", True)


def test_a_restart_continues_with_what_was_learned(bundle: Bundle, recorded: Path, tmp_path: Path) -> None:
    """The bundle has no priors, so that those fitted to the first answers are saved, too."""
    states = []
    for _ in range(2):
        agent, answers = agent_of(bundle, open_source(str(recorded)), Server(bundle, 1), store=str(tmp_path))
        camera = run(agent)
        cascade = camera.cascade
        assert cascade is not None
        states.append(cascade.estimator.state)
        unknown = sum("no risk is known" in answer.reason for answer in answers)
        assert (unknown > 0) == (len(states) == 1)
    assert states[0].keys() == states[1].keys() and "carried" in states[0]


def test_the_state_of_a_classifier_is_no_state_of_a_detector(bundle: Bundle) -> None:
    estimator = SceneEstimator()
    state = {"picture": (np.zeros(5), np.eye(5))}
    learner_file.restore(estimator, encode(LearnerState(state), bundle.version), bundle.version)
    assert not estimator.state
