"""A detector whose detections are answered as they are: exactly those, whatever is asked, and hardly anything is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cachenet.shared.cascade.detect.build_cascade import build_scene_cascade
from cachenet.shared.cascade.detect.scene_cascade import SceneCascade
from cachenet.shared.cascade.detect.scene_replay import SceneTrace, fit_scene_priors, objects_of, run
from cachenet.shared.cascade.detect.spec import SceneSpec
from cachenet.shared.cascade.detect.types import LocalDetector, SceneMiss, SceneReply
from tests.shared.cascade.detect.scenes import walkers

SCORE = 0.6
PRIORS = fit_scene_priors([replace(walkers(150, 1), answer_score=SCORE)])


def cascade_of(trace: SceneTrace, budget: float, reuse: bool = False) -> SceneCascade:
    base = LocalDetector("base", lambda at: trace.base[at], answer_score=SCORE)
    return build_scene_cascade(SceneSpec(1, "full", PRIORS, budget, reuse_tracks=reuse, audit_floor=0.0), base)


@pytest.mark.parametrize("budget", [0.15, 0.9])
def test_the_answer_is_the_detections_of_enough_score_whatever_the_budget(budget: float) -> None:
    trace = walkers(200, 2, found=0.98, false=0.05)
    result = run(cascade_of(trace, budget), trace, delay=2)
    for answer, found in zip(result.answers, trace.base, strict=True):
        wanted = found.take(found.scores >= SCORE)
        boxes = {tuple(box) for box in objects_of(answer).boxes.round(5).tolist()}
        assert boxes == {tuple(box) for box in wanted.boxes.round(5).tolist()}


def test_a_question_whose_reply_comes_late_is_not_repeated() -> None:
    """The priors state more error than the budget on nearly all frames, and the full model finds less."""
    trace = walkers(300, 3, found=0.98, false=0.05)
    priors = fit_scene_priors([replace(walkers(150, 1, found=0.5), answer_score=SCORE)])
    base = LocalDetector("base", lambda at: trace.base[at], answer_score=SCORE)
    spec = SceneSpec(1, "full", priors, 0.15, reuse_tracks=False, audit_floor=0.0)
    result = run(build_scene_cascade(spec, base), trace, delay=3)
    assert sum(one.risk > 0.15 for one in result.answers) > 100
    assert 1 <= result.asked.sum() <= 5


def test_questions_go_on_where_replies_come_in_time() -> None:
    """In mode ``wait`` the reply is the frame's answer."""
    trace = walkers(120, 4, found=0.5)
    cascade = cascade_of(trace, 0.01)
    asked = 0
    for at, frame in enumerate(trace.frames):
        step = cascade.lookup(frame, at / 10)
        reply = SceneReply(at, trace.full[at]) if isinstance(step, SceneMiss) else None
        asked += reply is not None
        answer = cascade.complete(step, reply, at / 10)
        if reply is not None:
            assert len(objects_of(answer)) == len(trace.full[at])
    assert asked > 60


def test_an_object_has_one_track_while_it_is_found() -> None:
    trace = walkers(100, 5, count=2, found=1.0, false=0.0)
    result = run(cascade_of(trace, 0.5), trace, delay=2)
    numbers = [one.track for answer in result.answers for one in answer.objects]
    assert len(set(numbers)) < 12 < len(numbers)


def test_where_audits_show_more_error_than_the_budget_tracks_answer_and_questions_are_asked() -> None:
    trace = walkers(1200, 8, found=0.4)
    base = LocalDetector("base", lambda at: trace.base[at], answer_score=SCORE)
    cascade = build_scene_cascade(SceneSpec(1, "full", PRIORS, 0.1, audit_floor=0.1), base)
    result = run(cascade, trace, delay=2)
    assert sum(one.level == "fallback" for one in result.answers) > 60
    alone = run(cascade_of(trace, 0.9), trace, delay=2)
    assert alone.errors[-300:].mean() > 0.3
    assert result.errors[-300:].mean() < 0.1
