"""An explanation states the decision of the record, and says what was tried, why, and what would have changed it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.cli import app
from cachenet.edge_agent.explain import text
from cachenet.edge_agent.explain.causes import NAMES
from cachenet.edge_agent.explain.explanation import Explanation, explain
from cachenet.edge_agent.explain.record import Check, FrameRecord
from cachenet.edge_agent.explain.records import read
from cachenet.edge_agent.explain.summary import summarise
from cachenet.edge_agent.outputs.decision_log import CascadeCreated, Completed
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.remote import POSTED
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import open_source
from cachenet.models.data import cifar10, sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.decision import Attempt, Cause, Decision
from cachenet.shared.cascade.detect.types import SceneAnswer, TrackedObject
from cachenet.shared.cascade.types import Answer
from tests.detectors import detector_bundle, footage, record
from tests.edge_agent.scenes import Server, agent_of, run

LABELS = ("cat", "dog")
SETTINGS = Settings(device="pi")
_risks = st.floats(0.0, 1.0)


def recalled(risk: float, limit: float = 0.004) -> Attempt:
    return Attempt("frames", "", 1, risk, limit, causes=(Cause("change", (3.5, 6.0), 0.01),))


def probed(risk: float, limit: float = 0.04, **more: Any) -> Attempt:
    base = Cause("base", (-0.5, -0.9, 1.0, -0.9), 0.01)
    return Attempt("base", "base", 0, risk, limit, (0, 0.61), causes=(base,), **more)


def frame(
    level: Any, risk: float = 0.02, reason: str = "", *attempts: Attempt, label: int | None = 0, **more: Any
) -> Explanation:
    """The explanation of a classifier's frame."""
    answer = Answer(7, label, 1.0 - risk, risk, level, level, reason, more.pop("audit", False))
    return explain(FrameRecord(answer, Decision(0.04, attempts), LABELS, SETTINGS, True, **more))


def scene(level: Any, risk: float, reason: str = "", not_asked: str = "", *attempts: Attempt) -> Explanation:
    """The explanation of a detector's frame with two objects."""
    objects = tuple(TrackedObject(track, track, 0.9, (0.1, 0.1, 0.2, 0.2), 0.1) for track in range(2))
    answer = SceneAnswer(7, objects, risk, level, "scene", reason)
    return explain(FrameRecord(answer, Decision(0.1, attempts, not_asked), LABELS, SETTINGS, True))


@pytest.mark.parametrize(
    ("made", "decision", "reason", "changed"),
    [
        (frame("frames", 0.003, "", recalled(0.003)), "on the device, from the full model's earlier answers: cat",
         "within 0.004, a tenth of the threshold: no model had to run", "--max-disagreement under 0.0015 .* sent"),
        (frame("base", 0.02, "", recalled(0.8), probed(0.02), audit=True), "by base: cat. The answer was sent to be",
         "The risk 0.020 is within the threshold 0.040", "under 0.01 "),
        (frame("submodels", 0.02, "", probed(0.2)), "by submodels: cat", "within the threshold", "--max-disagreement"),
        (frame("cloud", 0.0, "risk 0.080 over 0.040", recalled(0.8), probed(0.08), seconds=0.018),
         "Sent to the cloud, which answered cat after 18 ms", "The risk 0.080 is over the threshold 0.040",
         r"the risk is 0.010 and the answer a hit: the base model gives cat 61 %.*--max-disagreement 0.04 in"),
        (frame("full", 0.0, "risk 0.500 over 0.040", probed(0.5)), "by the full model on the device: cat",
         "over the threshold", "No budget: the threshold is 0.4 at most"),
        (frame("fallback", 0.08, "risk 0.080 over 0.040; no answer in time", probed(0.08)),
         "did not answer in time; the device answered cat", "its answer did not come within the deadline",
         r"within 250 ms \(--deadline-ms\); none came"),
        (frame("fallback", 0.08, "risk 0.080 over 0.040; no answer in time", check=Check(False, 1, 0.4123)),
         "did not answer in time", "over the threshold", "--deadline-ms 413 or more"),
        (frame("fallback", 0.08, "risk 0.080 over 0.040; no cloud", probed(0.08)), "could not be asked", "no server",
         "A server"),
        (frame("fallback", 0.08, "risk 0.080 over 0.040; not connected"), "could not be asked", "no connection",
         "edge-agent doctor"),
        (frame("fallback", 0.08, f"risk 0.080 over 0.040; {POSTED}"), "answered by the device meanwhile",
         "did not wait", "--mode wait"),
        (frame("cloud", 0.0, "no risk is known yet"), "Sent to the cloud", "No risk is known yet", "first 50"),
        (frame("cloud", 0.0, "out of distribution"), "Sent to the cloud", "look unlike", "docs/build.md"),
        (frame("base", 1.0, "", label=None), "by base: unknown", "out of distribution", "docs/build.md"),
        (scene("tracks", 0.004, "", "", Attempt("tracks", "", None, 0.004, 0.01, objects=2)),
         "from tracks carried to this frame: 1 cat, 1 dog", "expected error 0.004 is within 0.010, a tenth",
         "--max-object-error under"),
        (scene("frames", 0.004, "", "", Attempt("frames", "", None, 0.004, 0.01, objects=2)), "from tracks, unmoved",
         "no model had to run", "--max-object-error"),
        (scene("submodels", 0.3, "", "an earlier question is still on its way"), "by scene",
         "error 0.300 is over the threshold 0.100, but an earlier question", ""),
        (scene("fallback", 0.2, f"expected error 0.200 over 0.100; {POSTED}", "",
               Attempt("base", "base", None, 0.2, 0.1, objects=2, causes=(Cause("uncovered", (1.2,), 0.01),))),
         "meanwhile: 1 cat, 1 dog", "The expected error 0.200 is over the threshold 0.100",
         "Without this, the risk is 0.010 and the answer a hit: 1.2 objects that no model"),
        (scene("cloud", 0.0, "no level of the device may answer"), "Sent to the cloud", "by the setting levels", ""),
    ],
)  # fmt: skip
def test_each_level_and_each_reason_is_explained(made: Explanation, decision: str, reason: str, changed: str) -> None:
    assert decision in made.decision
    assert reason in " ".join(made.reasons)
    assert re.search(changed, " ".join(made.changes))
    assert all(len(line) <= 80 for line in text.of_frame(made).splitlines())


@pytest.mark.parametrize(
    ("failure", "why", "helps"),
    [
        ("cloud silent, circuit open", "asked none for a while (circuit open)", "edge-agent doctor"),
        ("cloud busy, asked for a pause", "the server had asked for a pause", "fewer devices"),
        ("cloud busy", "earlier questions were still without an answer", "A faster server"),
        ("no time left in this frame", "had taken all the time", "--deadline-ms"),
        ("refused: busy (the full model failed)", "refused: busy (the full model failed)", "server's log"),
        ("of a later version", "of a later version", ""),
    ],
)
def test_each_failure_of_the_full_model_is_explained_and_says_what_would_help(
    failure: str, why: str, helps: str
) -> None:
    made = frame("fallback", 0.5, f"risk 0.500 over 0.040; {failure}", probed(0.5))
    assert why in " ".join(made.reasons) and helps in " ".join(made.changes)
    answer = Answer(7, 0, 0.5, 0.5, "fallback", "base", f"risk 0.500 over 0.040; {failure}")
    (counted,) = summarise([FrameRecord(answer, None, LABELS, SETTINGS, True)]).failures
    assert why in counted


def test_of_a_detector_the_table_has_no_column_for_the_label_that_a_model_gives() -> None:
    attempt = Attempt("base", "base", None, 0.2, 0.1, objects=2)
    assert "model gives" not in text.of_frame(scene("submodels", 0.3, "", "", attempt))
    assert "model gives" in text.of_frame(frame("base", 0.02, "", probed(0.02)))


def test_a_check_tells_whether_the_device_was_wrong() -> None:
    assert "dog, another label, so the device was wrong" in frame("base", audit=True, check=Check(True, 1, 0.2)).check
    assert "cat, the same label" in frame("base", audit=True, check=Check(True, 0, 0.2)).check


def test_a_level_that_is_switched_off_is_named() -> None:
    answer = Answer(7, 0, 1.0, 0.0, "cloud", "full", "risk 0.080 over 0.040")
    without = Settings(device="pi", levels=("frames", "cloud"))
    made = explain(FrameRecord(answer, None, (), without, True))
    assert "base, submodels" in made.changes[-1] and made.answer == "label 0"


_causes = st.builds(Cause, st.sampled_from([*NAMES, "new"]), st.just((0.5, -0.5, 0.5, 0.5, 1.0)), _risks)
_attempts = st.builds(
    Attempt, st.sampled_from(["frames", "base", "submodels"]), st.sampled_from(["", "base", "a" * 60]),
    st.integers(0, 3), _risks, _risks, st.none() | st.tuples(st.integers(0, 3), _risks),
    causes=st.lists(_causes, max_size=6).map(tuple),
)  # fmt: skip
_answers = st.builds(
    Answer, st.integers(0, 9), st.none() | st.integers(0, 3), _risks, _risks,
    st.sampled_from(["frames", "base", "submodels", "full", "cloud", "fallback"]), st.text(max_size=5),
    st.sampled_from(["", "risk 0.1 over 0.04", "risk 0.1 over 0.04; cloud busy", "no risk is known yet", "else"]),
    st.booleans(),
)  # fmt: skip


@given(_answers, st.none() | st.builds(Decision, st.floats(1e-4, 0.4), st.lists(_attempts, max_size=3).map(tuple)))
def test_the_stated_decision_is_that_of_the_record_and_fits_80_columns(
    answer: Answer, decision: Decision | None
) -> None:
    record = FrameRecord(answer, decision, LABELS, SETTINGS, True)
    made = explain(record)
    assert (made.frame, made.level, made.risk) == (answer.frame, answer.level, answer.risk)
    assert made.answer == record.label(answer.label) and made.answer in made.decision
    assert ("on the device" in made.decision) == (answer.hit or answer.level == "full")
    assert [(one.risk, one.hit) for one in made.tried] == [
        (one.risk, one.risk <= one.limit) for one in (decision.attempts if decision is not None else ())
    ]
    assert all(len(line) <= 80 for line in text.of_frame(made).splitlines())
    found = summarise([record])
    assert (found.frames, found.levels) == (1, {answer.level: 1})
    assert all(len(line) <= 80 for line in text.of_log(found, "d.jsonl").splitlines())


@pytest.fixture(scope="module")
def scene_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The log of a run of detectors with late replies."""
    directory = tmp_path_factory.mktemp("run")
    bundle = Bundle(detector_bundle(directory / "squares"))
    source = open_source(str(record(directory / "stream", footage(90))))
    log = directory / "d.jsonl"
    agent, _ = agent_of(bundle, source, Server(bundle, 2), decision_log=str(log), audit_share=0.3)
    run(agent)
    yield log


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["explain", *arguments])


def test_a_run_of_detectors_is_explained_frame_by_frame(scene_log: Path) -> None:
    records = {one.answer.frame: one for one in read(scene_log)}
    assert sorted(records) == list(range(90))
    for one in records.values():
        made = explain(one)
        assert made.level == one.answer.level and made.tried
        assert isinstance(one.answer, SceneAnswer) and made.answer.count("square") == bool(one.answer.objects)
        if one.answer.hit and one.decision is not None and not one.decision.not_asked:
            assert made.tried[-1].hit and made.tried[-1].risk == made.best_risk == one.answer.risk
    assert any(one.check is not None and one.check.audit for one in records.values())
    assert any(one.check is not None and not one.check.audit for one in records.values())
    summary = json.loads(invoke(str(scene_log), "--json").stdout)
    assert summary["frames"] == 90 and sum(summary["levels"].values()) == 90
    assert summary["checked"] == sum(one.check is not None for one in records.values())
    output = invoke(str(scene_log), "--frame", "40")
    assert output.exit_code == 0 and output.stdout.startswith("Frame 40. ")


def test_a_run_of_classifiers_is_explained_frame_by_frame(tmp_path: Path) -> None:
    """The full model on the device answers the misses."""
    images, log = sample.load(), tmp_path / "c.jsonl"
    streams.record_stream(
        streams.schedule("held", images.labels, 5, 60), images.images, tmp_path / "stream", cifar10.LABELS
    )
    settings = Settings(provider="cpu", levels=("frames", "base", "full"), decision_log=str(log), deadline_ms=60_000)
    agent = Agent(settings, [open_source(str(tmp_path / "stream"))], None, None, Bundle(Path("models/zoo/cifar10")))
    agent.run(JsonLinesWriter(""))
    found = {made.frame: made for made in map(explain, read(log))}
    assert len(found) == 60 and {made.level for made in found.values()} >= {"base", "full"}
    for made in found.values():
        assert made.answer in cifar10.LABELS
        if made.level in ("frames", "base"):
            assert any(one.hit and one.best == made.answer for one in made.tried)
        elif "out of distribution" not in made.reasons[0]:
            assert not any(one.hit for one in made.tried)
            assert made.threshold is not None and made.best_risk > made.threshold


def test_a_bad_log_or_frame_is_refused_with_one_line(scene_log: Path, tmp_path: Path) -> None:
    other, empty = tmp_path / "other.txt", tmp_path / "empty"
    other.write_text("# a heading\n")
    empty.touch()
    lines = scene_log.read_bytes().splitlines(keepends=True)
    (tmp_path / "headless").write_bytes(b"".join(lines[1:]))
    for arguments, message in (
        ((str(other),), "other.txt is no decision log, at line 1"),
        ((str(empty),), "has no answer in it"),
        ((str(tmp_path / "headless"),), "does not begin at the beginning"),
        ((str(tmp_path / "nowhere"),), "No such file"),
        ((str(tmp_path),), "Is a directory"),
        ((str(scene_log), "--frame", "90"), "has no frame 90; it has 90 frames, from 0 to 89"),
    ):
        output = invoke(*arguments)
        assert (output.exit_code, output.stderr.count("\n")) == (2, 1) and message in output.stderr


def test_a_truncated_last_line_is_left_out_and_a_line_says_so(scene_log: Path, tmp_path: Path) -> None:
    log = tmp_path / "cut.jsonl"
    log.write_bytes(scene_log.read_bytes()[:-5])
    output = invoke(str(log))
    assert output.exit_code == 0 and "ends within a line" in output.stderr


def test_a_log_of_an_earlier_version_is_explained_without_attempts(tmp_path: Path) -> None:
    log, writer = tmp_path / "old.jsonl", JsonLinesWriter(str(tmp_path / "old.jsonl"))
    begun = msgspec.to_builtins(CascadeCreated(SETTINGS, "1" * 64, None, True, 0))
    answer = msgspec.to_builtins(Completed(0, 1.0, None, "", Answer(0, 0, 0.9, 0.1, "base", "base")))
    for one in (begun, answer):
        one.pop("labels", None), one.pop("decision", None)
        log.open("ab").write(msgspec.json.encode(one) + b"\n")
    writer.close()
    output = invoke(str(log), "--frame", "0")
    assert output.exit_code == 0 and "by base: label 0" in output.stdout


def write_log(log: Path, *completed: Completed) -> None:
    events = (CascadeCreated(SETTINGS, "1" * 64, None, True, 0), *completed)
    log.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in events))


def test_two_logs_one_after_the_other_are_summarised_together(tmp_path: Path) -> None:
    log, both = tmp_path / "both.jsonl", b""
    for level in ("base", "submodels"):
        answers = (Answer(index, 0, 0.9, 0.1, level, level) for index in range(9))  # type: ignore[arg-type]
        write_log(log, *(Completed(one.frame, 1.0, None, "", one) for one in answers))
        both += log.read_bytes()
    log.write_bytes(both)
    made = json.loads(invoke(str(log), "--json").stdout)
    assert (made["frames"], made["levels"]) == (18, {"base": 9, "submodels": 9})
    assert [one["frame"] for one in made["riskiest"]] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("threshold", "cause"),
    [
        (0.04, Cause("change", (1e4, 6.0), 0.01)),
        (0.04, Cause("filter", (-1e4,), 0.01)),
        (0.04, Cause("age", (), 0.01)),
        (0.0, Cause("uncertainty", (), 0.9)),
    ],
)
def test_values_that_no_run_writes_are_refused_with_one_line(threshold: float, cause: Cause, tmp_path: Path) -> None:
    log = tmp_path / "damaged.jsonl"
    tried = Decision(threshold, (Attempt("base", "base", 0, 0.3, threshold, (0, 0.5), causes=(cause,)),))
    answer = Answer(0, 0, 0.7, 0.3, "fallback", "base", "risk 0.3 over 0.04; no answer in time")
    write_log(log, Completed(0, 1.0, None, "", answer, tried))
    output = invoke(str(log), "--frame", "0")
    assert (output.exit_code, output.stderr.count("\n")) == (2, 1), output.exception
    assert "damaged.jsonl is damaged" in output.stderr


def test_a_log_of_endless_brackets_is_no_decision_log(scene_log: Path, tmp_path: Path) -> None:
    log = tmp_path / "deep.jsonl"
    log.write_bytes(scene_log.read_bytes() + b'{"type": "install", "x": ' + b"[" * 100_000 + b"\n")
    output = invoke(str(log))
    assert (output.exit_code, output.stderr.count("\n")) == (2, 1) and "no decision log" in output.stderr
