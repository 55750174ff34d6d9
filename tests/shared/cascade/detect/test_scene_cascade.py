"""The cascade of a detector: its four calls, what it answers, when it asks, and what it learns."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from cachenet.shared.cascade.detect.build_cascade import build_scene_cascade
from cachenet.shared.cascade.detect.detections import NOTHING, Detections, counts, f1
from cachenet.shared.cascade.detect.scene_cascade import SceneCascade
from cachenet.shared.cascade.detect.scene_estimator import FIRST_ANSWERS
from cachenet.shared.cascade.detect.scene_features import SCENE_FEATURE_COUNT, SceneModel
from cachenet.shared.cascade.detect.scene_replay import SceneTrace, fit_scene_priors, objects_of, run
from cachenet.shared.cascade.detect.spec import SceneSpec
from cachenet.shared.cascade.detect.types import LocalDetector, SceneAnswer, SceneHit, SceneMiss, SceneReply
from cachenet.shared.cascade.risk_model import RiskPrior
from tests.shared.cascade.detect.scenes import boxes, frame, shifted, walkers


@lru_cache(1)
def priors() -> dict[SceneModel, RiskPrior]:
    return fit_scene_priors([walkers(150, 1)])


def cascade_of(trace: SceneTrace, budget: float = 0.1, audits: float = 0.0, prior: bool = True) -> SceneCascade:
    base = LocalDetector("base", lambda at: trace.base[at])
    spec = SceneSpec(1, "full", priors() if prior else {}, budget, audit_floor=audits)
    return build_scene_cascade(spec, base, submodel_bytes=100)


def still(count: int, base: Detections, full: Detections, moved: bool = False) -> SceneTrace:
    """A scene in which nothing moves."""
    frames = [frame(index, shifted(0.0), moved) for index in range(count)]
    return SceneTrace(frames, [full] * count, [base] * count)


def test_priors_fit_their_models() -> None:
    assert set(priors()) == {"carried", "carried-missed", "base", "base-missed"}
    assert all(prior.check(SCENE_FEATURE_COUNT[name]) for name, prior in priors().items())


def test_every_frame_ends_as_one_of_hit_and_fallback_and_is_counted() -> None:
    trace = walkers(120, 2)
    cascade = cascade_of(trace, audits=0.1)
    result = run(cascade, trace, delay=2)
    tally = cascade.tally
    assert tally.frames == 120 == sum(tally.hits.values()) + tally.fallbacks + tally.cloud + tally.full
    assert sum(one.level == "fallback" for one in result.answers) == tally.fallbacks > 0
    assert all((one.reason != "") == (one.level == "fallback") for one in result.answers)
    assert tally.late == pytest.approx(tally.fallbacks, abs=2)


def test_each_level_of_a_detector_is_counted_from_the_start() -> None:
    assert cascade_of(walkers(2, 1)).tally.hits == {"frames": 0, "tracks": 0, "submodels": 0, "base": 0}


def test_questions_lower_the_error() -> None:
    trace = walkers(300, 3, found=0.6, false=1.0)
    strict, loose = (run(cascade_of(trace, budget), trace, delay=2) for budget in (0.05, 0.9))
    assert strict.asked.mean() > loose.asked.mean() + 0.1
    assert strict.streaming_f1 > loose.streaming_f1 + 0.02


def test_the_answer_is_better_than_the_detector_alone() -> None:
    trace = walkers(300, 4, found=0.7)
    result = run(cascade_of(trace), trace, delay=2)
    alone = []
    for least in (0.3, 0.5, 0.6, 0.7):
        pairs = zip(trace.base, trace.full, strict=True)
        total = np.sum([counts(own.take(own.scores >= least), reference) for own, reference in pairs], axis=0)
        alone.append(f1(*total.tolist()))
    assert result.streaming_f1 > max(alone)


def test_an_empty_still_scene_is_answered_by_frames_alone() -> None:
    trace = still(200, NOTHING, NOTHING)
    cascade = cascade_of(trace)
    result = run(cascade, trace, delay=2)
    assert [one.level for one in result.answers[50:]] == ["frames"] * 150
    assert not any(one.objects for one in result.answers)


def test_a_run_is_repeatable() -> None:
    trace = walkers(100, 5)
    one, other = (run(cascade_of(trace, audits=0.2), trace, delay=3).answers for _ in range(2))
    assert one == other


def test_the_full_models_fresh_answer_stands() -> None:
    trace = still(1, boxes((0.5, 0.5, 0.6, 0.6)), boxes((0.1, 0.1, 0.3, 0.3), (0.2, 0.15, 0.4, 0.3)))
    cascade = cascade_of(trace, prior=False)
    step = cascade.lookup(trace.frames[0], 0.0)
    assert isinstance(step, SceneMiss)
    answer = cascade.complete(step, SceneReply(0, trace.full[0]), 0.1)
    assert (answer.level, answer.risk) == ("cloud", 0.0)
    np.testing.assert_allclose(objects_of(answer).boxes, trace.full[0].boxes, atol=1e-6)


def test_without_priors_every_frame_is_asked_until_they_are_fitted_to_the_first_answers() -> None:
    trace = walkers(FIRST_ANSWERS + 60, 6)
    cascade = cascade_of(trace, prior=False)
    for at, one in enumerate(trace.frames):
        step = cascade.lookup(one, at / 10)
        reply = SceneReply(at, trace.full[at]) if isinstance(step, SceneMiss) else None
        assert isinstance(step, SceneMiss) or at >= FIRST_ANSWERS
        cascade.complete(step, reply, at / 10 + 0.05)
    assert cascade.estimator.ready
    assert set(cascade.estimator.fitted) >= {"carried", "base"}
    assert sum(cascade.tally.hits.values()) > 20


def numbers(answer: SceneAnswer) -> list[int]:
    return [one.track for one in answer.objects]


def test_an_object_has_one_number_though_a_reply_replaces_its_track() -> None:
    found = boxes((0.4, 0.4, 0.6, 0.8))
    trace = still(30, found, found, moved=True)
    cascade = cascade_of(trace)
    shown = []
    for at, one in enumerate(trace.frames):
        step = cascade.lookup(one, at / 10)
        shown.append(numbers(cascade.complete(step, None, at / 10)))
        if at in (10, 20):
            cascade.on_late_reply(SceneReply(at - 5, boxes((0.41, 0.4, 0.6, 0.79))), at / 10)
    assert {tuple(one) for one in shown if one} == {(1,)}


def test_tracks_are_numbered_from_one_and_never_twice_in_a_frame() -> None:
    trace = walkers(150, 7, count=6)
    for answer in run(cascade_of(trace), trace, delay=2).answers:
        own = numbers(answer)
        assert len(set(own)) == len(own)
        assert own == sorted(own)
        assert all(one >= 1 for one in own)


def test_a_question_holds_back_others_until_its_reply_is_overdue() -> None:
    trace = walkers(80, 8, found=0.5, false=2.0)
    cascade = cascade_of(trace, budget=0.02)
    asked = []
    for at, one in enumerate(trace.frames):
        step = cascade.lookup(one, at / 10)
        cascade.complete(step, None, at / 10)
        if isinstance(step, SceneMiss):
            asked.append(at)
        if at == 40:
            break
    assert len(asked) > 3
    assert (np.diff(asked) > 2).all()


def test_replies_that_fit_no_frame_change_nothing() -> None:
    trace = walkers(20, 9)
    cascade = cascade_of(trace)
    run(cascade, trace, delay=2)
    before = cascade.estimator.state
    for index in (-1, 5000):
        cascade.on_late_reply(SceneReply(index, trace.full[0]), 3.0)
        cascade.on_audit_reply(SceneReply(index, trace.full[0]), 3.0)
    assert all(np.array_equal(before[name][0], own[0]) for name, own in cascade.estimator.state.items())


def test_a_reply_counts_once() -> None:
    trace = walkers(20, 10)
    cascade = cascade_of(trace)
    run(cascade, trace, delay=50)
    reply = SceneReply(15, trace.full[15])
    cascade.on_late_reply(reply, 2.0)
    once = cascade.estimator.state
    cascade.on_late_reply(reply, 2.0)
    assert all(np.array_equal(once[name][0], own[0]) for name, own in cascade.estimator.state.items())


def test_a_detector_that_fails_leaves_the_carried_tracks() -> None:
    trace = walkers(30, 11)
    base = LocalDetector("base", lambda at: None if at >= 20 else trace.base[at])
    cascade = build_scene_cascade(SceneSpec(1, "full", priors(), audit_floor=0.0), base)
    answers = run(cascade, trace, delay=2).answers
    assert all(one.level in ("frames", "tracks", "fallback") for one in answers[20:])
    assert any(one.objects for one in answers[20:])


def test_a_device_without_a_detector_answers_with_carried_replies() -> None:
    trace = walkers(120, 12)
    cascade = build_scene_cascade(SceneSpec(1, "full", audit_floor=0.0), None)
    result = run(cascade, trace, delay=2)
    assert result.streaming_f1 > 0.8


def test_every_frame_is_asked_about_where_only_the_server_may_answer() -> None:
    trace = still(40, NOTHING, boxes((0.1, 0.1, 0.2, 0.3)))
    cascade = build_scene_cascade(SceneSpec(1, "full", priors(), reuse_tracks=False, audit_floor=0.0), None)
    for index, one in enumerate(trace.frames):
        step = cascade.lookup(one, index / 10)
        assert isinstance(step, SceneMiss)
        reply = SceneReply(index, trace.full[index]) if index % 3 else None
        assert cascade.complete(step, reply, index / 10).level == ("cloud" if reply else "fallback")


def test_where_the_budget_cannot_be_met_the_floor_is_known_and_questions_end() -> None:
    # The detector finds nothing, and the motion is unknown: a reply says nothing of the present.
    trace = walkers(1500, 13, found=0.0, false=3.0)
    lost = SceneTrace([frame(one.index, shifted(0.0, consistency=0.0)) for one in trace.frames], trace.full, trace.base)
    cascade = cascade_of(lost, budget=0.05)
    result = run(cascade, lost, delay=3)
    assert cascade.unattainable
    assert cascade.floor is not None
    assert cascade.floor > 0.05
    assert result.asked[:300].mean() > 0.1
    assert not result.asked[-200:].any()


def test_a_change_of_the_whole_scene_ends_all_tracks() -> None:
    found = boxes((0.4, 0.4, 0.6, 0.8))
    rng = np.random.default_rng(0)
    picture = rng.uniform(50, 150, (24, 32)).astype(np.float32)
    cascade = cascade_of(still(200, found, found, moved=True))
    for index in range(160):
        bright = picture + (60.0 if index >= 140 else 0.0)
        one = frame(index, shifted(0.0))
        signature = type(one.signature)(bright.reshape(12, 2, 16, 2).mean((1, 3)), bright)
        step = cascade.lookup(type(one)(index, index, signature, one.moved, one.flow), index / 10)
        cascade.complete(step, None, index / 10)
    assert cascade.tally.scene_changes == 1
    assert len(cascade.estimator.history) < 32


def test_a_resident_submodel_runs_in_place_of_the_base_model() -> None:
    trace = walkers(80, 14)
    cascade = cascade_of(trace)
    cascade.on_late_reply(SceneReply(0, NOTHING, submodel="yard"), 0.0)
    assert cascade.pending_fetch == "yard"
    assert cascade.install(LocalDetector("huge", lambda at: trace.full[at], cost=101, level="submodels")) == ["huge"]
    assert cascade.install(LocalDetector("yard", lambda at: trace.full[at], cost=60, level="submodels")) == []
    assert cascade.pending_fetch is None
    levels = {one.level for one in run(cascade, trace.part(0, 40), delay=2).answers}
    assert "submodels" in levels
    assert "base" not in levels
    assert cascade.install(LocalDetector("gate", lambda at: trace.full[at], cost=60, level="submodels")) == ["yard"]
    assert cascade.evict_to(0) == ["gate"]
    assert "base" in {one.level for one in run(cascade, trace.part(40, 80), delay=2).answers}


def test_a_full_model_on_the_device_answers_where_the_server_is_slower() -> None:
    trace = walkers(60, 15)
    cascade = cascade_of(trace, prior=False)
    cascade.install(LocalDetector("full", lambda at: trace.full[at], seconds=0.05))
    for _ in range(10):
        cascade.router.record_round_trip(1.0)
    step = cascade.lookup(trace.frames[0], 0.0)
    assert isinstance(step, SceneMiss)
    assert step.on_device
    assert cascade.complete(step, SceneReply(0, trace.full[0], on_device=True), 0.05).level == "full"
    cascade.unload_full()
    assert cascade.full is None


def test_audited_hits_are_judged_by_their_object_error() -> None:
    trace = walkers(200, 16)
    cascade = cascade_of(trace, budget=0.5, audits=0.5)
    result = run(cascade, trace, delay=2)
    audits = cascade.audits
    assert audits is not None
    assert audits.judged > 50
    hits = [one for one in result.answers if isinstance(one, SceneAnswer) and one.hit]
    assert audits.wrong / audits.judged == pytest.approx(result.errors[[one.frame for one in hits]].mean(), abs=0.05)


def test_weights_are_continued_after_a_restart() -> None:
    trace = walkers(150, 17)
    cascade = cascade_of(trace)
    run(cascade, trace, delay=2)
    again = cascade_of(trace)
    assert again.estimator.restore(cascade.estimator.state)
    assert all(np.array_equal(again.estimator.state[name][0], own[0]) for name, own in cascade.estimator.state.items())
    assert not again.estimator.restore({"base": (np.zeros(3), np.zeros((3, 3)))})


def test_a_hit_is_within_the_threshold_or_waits_for_a_reply() -> None:
    trace = walkers(100, 18)
    cascade = cascade_of(trace)
    waiting_until = -1
    for at, one in enumerate(trace.frames):
        step = cascade.lookup(one, at / 10)
        threshold = cascade.threshold
        if isinstance(step, SceneHit):
            assert step.prediction.risk <= threshold or at <= waiting_until
        else:
            waiting_until = at + 2
        cascade.complete(step, None, at / 10)
        if isinstance(step, SceneMiss):
            cascade.on_late_reply(SceneReply(at, trace.full[at]), at / 10)
            waiting_until = -1


def test_before_a_model_has_looked_at_a_scene_nothing_is_claimed_of_it() -> None:
    person = boxes((0.4, 0.4, 0.5, 0.8))
    trace = still(5, person, person)
    cascade = cascade_of(trace)
    weights, precision = cascade.estimator.state["carried-missed"]
    never = np.append(np.zeros(len(weights) - 1), -20.0)  # learned elsewhere: no object is ever missed
    assert cascade.estimator.restore({"carried-missed": (never, precision)})
    assert all(one.objects for one in run(cascade, trace, delay=2).answers)
