"""The agent in this process, without a network: what it does between two frames."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera_loop import MAX_CONSECUTIVE_ERRORS
from cachenet.edge_agent.device_cascade import DeploymentError
from cachenet.edge_agent.frame_inputs import FrameInputs, scorer
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import SourceFrame
from cachenet.edge_agent.updates.store import Store
from cachenet.shared.bundle.manifest import Bundle, Certificate
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.distribution import MISSES_BEFORE_UNKNOWN, Distribution
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.types import Answer, Step
from cachenet.shared.inference.engine import EngineError, Logits
from cachenet.shared.inference.image import Input, Picture
from cachenet.shared.transport.mqtt import Address, Message
from cachenet.shared.transport.protocol import catalogue
from tests.bundles import INPUT, LABELS, tiny_bundle
from tests.edge_agent.agents import Pictures, install_current, maintain_until, running, served, shot


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


def test_a_picture_is_cropped_once_for_all_models_that_see_the_same() -> None:
    view = FrameInputs(shot().picture)
    assert view.crop(INPUT) is view.crop(Input(INPUT.side, INPUT.mean, INPUT.std))
    assert view.crop(Input(16, INPUT.mean, INPUT.std)).shape == (16, 16, 3)


def test_only_the_region_of_interest_is_looked_at(bundle: Bundle) -> None:
    """Two pictures that differ outside of it are the same picture."""
    left, right = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64, 3), np.uint8)
    left[:, :32] = 255

    def last(region: str, *pictures: Picture) -> Answer | None:
        with running(Settings(levels=("frames", "base"), region=region), bundle=bundle) as camera:
            for index, picture in enumerate(pictures):
                camera.answer(index, SourceFrame(picture), JsonLinesWriter(""))
            return camera.last_answered and camera.last_answered.answer

    answers = last("0.5,0,0.5,1", right, left), last("", right, left)
    alone = last("0.5,0,0.5,1", right, right)
    inside, whole = answers
    assert inside == alone
    assert whole != inside


def test_every_frame_of_a_source_is_answered_and_counted_in_the_summary(bundle: Bundle, tmp_path: Path) -> None:
    source, sink = Pictures(30), JsonLinesWriter(str(tmp_path / "answers"))
    agent = Agent(Settings(levels=("frames", "submodels", "base")), [source], (), None, bundle)
    agent.run(sink)
    sink.close()
    summary = agent.summary()
    assert len((tmp_path / "answers").read_text().splitlines()) == summary["frames"] == 30
    assert sum(summary["hits"].values()) + summary["cloud"] + summary["fallbacks"] == 30
    assert summary["hits"]["base"] > 0
    assert summary["latency_ms"]["p50"] > 0
    assert summary["resident_bytes_peak"] > 1 << 20
    assert source.closed


def test_it_stops_after_so_many_frames(bundle: Bundle) -> None:
    source = Pictures(30)
    agent = Agent(Settings(frames=3), [source], (), None, bundle)
    agent.run(JsonLinesWriter(""))
    assert agent.summary()["frames"] == 3
    assert source.closed


def test_a_bundle_that_there_is_too_little_memory_for_is_one_clear_line(bundle: Bundle) -> None:
    with pytest.raises(DeploymentError) as refused, running(Settings(memory_budget="1MB"), bundle=bundle):
        pass
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff" * 1000])
@pytest.mark.parametrize("topic", [catalogue("tiny"), "cachenet/2/cam/answer", "cachenet/2/cam/blob/" + "0" * 64])
def test_a_malformed_message_is_ignored_wherever_it_arrives(topic: str, payload: bytes, tmp_path: Path) -> None:
    agent = Agent(Settings(device="cam"), [Pictures(0)], (Address("127.0.0.1", 1),), Store(tmp_path), None)
    agent._receive(Message(topic, payload, None, b"x" * 16, ()))


def test_a_failing_model_gives_no_scores_and_ends_nothing(bundle: Bundle) -> None:
    """Its frames go on to the next level, here the last: a fallback."""
    with running(Settings(levels=("frames", "base")), bundle=bundle) as camera:
        assert camera.cascade is not None and camera.cascade.base is not None
        score = scorer("base", _fail, INPUT, 10)
        np.testing.assert_array_equal(score(FrameInputs(shot().picture)), np.full(10, np.nan))
        camera.cascade.base = replace(camera.cascade.base, score=score)
        camera.answer(0, shot(), JsonLinesWriter(""))
        assert camera.tally.fallbacks == 1


def test_a_failing_full_model_on_the_device_gives_no_answer(bundle: Bundle) -> None:
    with running(Settings(levels=("base", "full")), bundle=bundle) as camera:
        maintain_until(camera, lambda: camera.cascade.full)  # type: ignore[union-attr]
        assert camera.cascade is not None and camera.cascade.full is not None
        camera.cascade.full = replace(
            camera.cascade.full, score=scorer("full", _fail, INPUT, 10), score_with_exits=None
        )
        camera.cascade._budget.threshold = 0.0
        camera.answer(0, shot(), JsonLinesWriter(""))
        assert (camera.tally.full, camera.tally.fallbacks) == (0, 1)
        assert len(camera.cascade.estimator.cache) == 0


def _fail(_batch: object) -> Logits:
    raise EngineError("out of memory")


def test_a_bundle_whose_base_model_cannot_answer_is_refused_at_once(bundle: Bundle, tmp_path: Path) -> None:
    """No other will come: waiting for one would be waiting for ever."""
    directory = tmp_path / "unfit"
    shutil.copytree(bundle.directory, directory)
    (directory / "base/1/model.onnx").write_bytes(b"no model")
    unfit = copy.copy(bundle)  # opened before the damage
    unfit.directory = directory
    with pytest.raises(DeploymentError, match="base cannot be used"), running(Settings(), bundle=unfit):
        pass


def test_without_a_connection_no_audit_counts_as_sent(tmp_path: Path) -> None:
    bundle = Bundle(tiny_bundle(tmp_path, risk=0.999))
    settings = Settings(audit_share=1.0, levels=("base", "cloud"))
    agent = Agent(settings, [Pictures(100)], (Address("127.0.0.1", 1),), None, bundle)
    agent.run(JsonLinesWriter(""))
    summary = agent.summary()
    assert summary["hits"]["base"] > 50, "there were frames to audit"
    assert agent.cameras[0].cascade is not None
    assert summary["audits"]["sent"] == summary["audited"] == 0
    assert summary["bytes_up"] == 0


def test_a_file_waits_for_the_models_that_it_may_use(tmp_path: Path) -> None:
    """A camera's frames go by meanwhile. The full model itself answers what no other is sure of."""
    unsure = Bundle(tiny_bundle(tmp_path / "unsure", risk=0))
    agent = Agent(Settings(provider="cpu"), [Pictures(10)], (), None, unsure)
    agent.run(JsonLinesWriter(""))
    tally = agent.cameras[0].tally
    assert (tally.frames, tally.fallbacks, tally.full) == (10, 0, 10)


def test_a_file_does_not_wait_for_a_server_that_is_not_there(tmp_path: Path) -> None:
    """The store holds only the base model, and no server has the others."""
    bundle = Bundle(tiny_bundle(tmp_path / "bundle"))
    store = install_current(Store(tmp_path / "store"), bundle.data)
    base = bundle.manifest.models["base"].sha256
    store.append(base, bundle.path("base").read_bytes())
    store.finish(base)
    agent = Agent(Settings(provider="cpu"), [Pictures(10)], (Address("127.0.0.1", 1),), store, None)
    agent.run(JsonLinesWriter(""))
    assert agent.cameras[0].tally.frames == 10


@pytest.mark.parametrize(("bad", "frames"), [(3, 10), (200, 0)])
def test_unanswerable_frames_end_a_run_only_if_all_frames_are(
    bad: int, frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = [bad]
    lookup = Cascade.lookup

    def failing(self: Cascade, frame: Frame, now: float) -> Step:
        left[0] -= 1
        if left[0] >= 0:
            raise ZeroDivisionError
        return lookup(self, frame, now)

    monkeypatch.setattr(Cascade, "lookup", failing)
    bundle = Bundle(tiny_bundle(tmp_path))
    agent = Agent(Settings(provider="cpu"), [Pictures(bad + frames)], (), None, bundle)
    if bad > MAX_CONSECUTIVE_ERRORS:
        with pytest.raises(ZeroDivisionError):
            agent.run(JsonLinesWriter(""))
    else:
        agent.run(JsonLinesWriter(""))
    camera = agent.cameras[0]
    assert (camera.tally.frames, camera.errors) == (frames, min(bad, MAX_CONSECUTIVE_ERRORS))
    assert camera.deciding is None, "or the watchdog would find that a model hangs"
    assert "frame 0 could not be answered" in caplog.text


def test_an_unchanged_picture_gets_the_full_models_label(bundle: Bundle) -> None:
    agent = served(Settings(levels=("frames", "cloud"), audit_share=0.0), Pictures(30, same=True), bundle, lambda: 7)
    agent.run(JsonLinesWriter(""))
    summary = agent.summary()
    assert (summary["cloud"], summary["hits"]["frames"]) == (1, 29)
    assert (summary["overruled"], summary["asked"]) == (0, 1 / 30)
    assert agent.cameras[0].last_answered is not None and agent.cameras[0].last_answered.line.label == LABELS[7]


def test_hits_that_disagree_raise_an_alarm_of_one_line_and_the_budget_is_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The full model contradicts every hit that it is asked about."""

    def other() -> int:
        answered = agent.cameras[0].last_answered
        return 0 if answered is None or answered.answer.label is None else (answered.answer.label + 1) % 10

    bundle = Bundle(tiny_bundle(tmp_path, risk=0.999))
    settings = Settings(levels=("base", "cloud"), audit_share=1.0)
    agent = served(settings, Pictures(60, same=True), bundle, other)
    agent.run(JsonLinesWriter(""))
    summary = agent.summary()
    audits = summary["audits"]
    assert audits["judged"] > 0 and audits["wrong"] == audits["judged"]
    assert summary["audited"] == audits["sent"]
    assert audits["scale"] < 1.0
    assert audits["agreement"]["low"] <= audits["agreement"]["estimate"] <= audits["agreement"]["high"]
    assert audits["agreement"]["estimate"] < 0.5
    logged = [record.message for record in caplog.records if "disagree with the full model" in record.message]
    assert len(logged) == audits["alarms"] > 0
    assert "multiplied by 0.5" in logged[0] and "100% of hits" in logged[0]
    assert summary["overruled"] == 0


def test_a_scene_change_is_counted_and_logged(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with running(Settings(levels=("frames", "base")), bundle=bundle) as camera:
        for index in range(110):
            camera.answer(index, shot(0 if index < 100 else 200), JsonLinesWriter(""))
        assert camera.summary()["scene_changes"] == 1
    assert [record.message for record in caplog.records if "the whole picture has changed" in record.message]


def test_a_picture_out_of_distribution_misses_and_is_then_unknown(tmp_path: Path) -> None:
    root = tiny_bundle(tmp_path / "bundle")
    never = Distribution(full=(1e6, 2e6), base=(1e6, 2e6), least=0.5)
    manifest = msgspec.structs.replace(Bundle(root).manifest, distribution=never)
    (root / "bundle.json").write_bytes(msgspec.json.encode(manifest))
    lines = tmp_path / "lines.jsonl"
    sink = JsonLinesWriter(str(lines))
    agent = Agent(Settings(levels=("base",)), [Pictures(MISSES_BEFORE_UNKNOWN + 30, same=True)], (), None, Bundle(root))
    agent.run(sink)
    sink.close()
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {answer["level"] for answer in answers[:MISSES_BEFORE_UNKNOWN]} == {"fallback"}
    assert all(answer["reason"].startswith("out of distribution") for answer in answers[:MISSES_BEFORE_UNKNOWN])
    assert {answer["label"] for answer in answers[MISSES_BEFORE_UNKNOWN + 10 :]} == {"unknown"}
    assert agent.summary()["unknown"] == [answer["label"] for answer in answers].count("unknown")


def test_a_full_model_on_the_device_whose_run_fails_has_not_answered(tmp_path: Path) -> None:
    """Its NaN scores must not become a label."""
    bundle = Bundle(tiny_bundle(tmp_path, risk=0))
    with running(Settings(levels=("base", "full"), provider="cpu"), bundle=bundle) as camera:
        maintain_until(camera, lambda: camera.cascade is not None and camera.cascade.full is not None)
        assert camera.cascade is not None and camera.cascade.full is not None
        camera.answer(0, shot(), JsonLinesWriter(""))
        camera.cascade.full = replace(camera.cascade.full, score=scorer("full", _fail, INPUT, 10))
        camera.answer(1, shot(80), JsonLinesWriter(""))
        assert (camera.tally.full, camera.tally.fallbacks) == (1, 1)


CERTIFIED = Certificate(0.02, 0.005, 0.015, 0.95, 0.1, 100)


@pytest.mark.parametrize(
    ("certificates", "budget", "logged"),
    [
        ((CERTIFIED,), 0.02, ""),
        ((CERTIFIED,), 0.01, "the smallest budget that was measured is 0.02; audits check"),
        ((), 0.02, "nothing was measured"),
        (
            (Certificate(0.02, 0.011, 0.3, 0.95, 0.1, 7, 250),),
            0.02,
            "1.1% of answers disagreed on 7 blocks of held-out footage, at most 30% with 95% confidence, "
            "and 250 blocks would do; audits check it while it runs",
        ),
    ],
)
def test_an_uncertified_budget_is_one_warning_and_all_frames_are_answered(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    certificates: tuple[Certificate, ...],
    budget: float,
    logged: str,
) -> None:
    root = tiny_bundle(tmp_path / "bundle")
    manifest = msgspec.structs.replace(Bundle(root).manifest, certificates=certificates)
    (root / "bundle.json").write_bytes(msgspec.json.encode(manifest))
    agent = served(Settings(max_disagreement=budget), Pictures(5), Bundle(root), lambda: 3)
    agent.run(JsonLinesWriter(""))
    assert agent.summary()["frames"] == 5
    output = [record.message for record in caplog.records if "is not certified" in record.message]
    assert len(output) == bool(logged)
    assert not logged or (logged in output[0] and "\n" not in output[0])
