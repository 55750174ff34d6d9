"""Replies that come after their frame has been answered: late answers and audits."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from cachenet.shared.cascade.audits import Audits
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.types import Answer, Hit, Reply
from tests.shared.cascade.streams import SURE, UNSURE, build, frame, grey, logits
from tests.shared.cascade.test_cascade import ask, calm


def fallback(cascade: Cascade, index: int, label: int) -> Answer:
    """A frame that is asked about and not answered in time."""
    cascade._budget.threshold = 1e-9
    answer = ask(cascade, index, label, None)
    assert answer.level == "fallback"
    return answer


def weights(cascade: Cascade) -> dict[str, bytes]:
    return {stage: parts[0].tobytes() for stage, parts in cascade.estimator.state.items()}


def test_a_late_reply_corrects_its_frame_and_is_learned() -> None:
    cascade = build()
    calm(cascade, 1, 5)
    assert fallback(cascade, 5, 1).label == 1
    before = weights(cascade)
    correction = cascade.on_late_reply(Reply(5, logits(3, SURE), "special"), 6.0)
    assert correction is not None
    assert (correction.frame, correction.label, correction.level) == (5, 3, "cloud")
    assert correction.reason == "correction"
    tally = cascade.tally
    assert (tally.late, tally.corrections, tally.fallbacks, tally.frames) == (1, 1, 1, 6)
    assert weights(cascade) != before
    cache = cascade.estimator.cache
    assert (cache.indices[cache.last], cache.labels[cache.last]) == (5, 3)
    assert cascade.pending_fetch == "special"


def test_a_late_reply_that_agrees_corrects_nothing_and_is_learned() -> None:
    cascade = build()
    label = fallback(cascade, 0, 3).label
    assert cascade.on_late_reply(Reply(0, logits(3, SURE)), 1.0) is None
    assert label == 3
    assert (cascade.tally.late, cascade.tally.corrections) == (1, 0)
    assert len(cascade.estimator.cache) == 1


def test_a_late_reply_to_an_older_frame_does_not_become_the_held_answer() -> None:
    cascade = build()
    fallback(cascade, 0, 1)
    cascade._budget.threshold = 1e-9
    ask(cascade, 1, 2, 2)
    cascade.on_late_reply(Reply(0, logits(3, SURE)), 2.0)
    cache = cascade.estimator.cache
    assert cache.labels[cache.last] == 2


@pytest.mark.parametrize("index", [0, 1, 7])
def test_a_reply_counts_only_for_a_frame_that_was_asked_and_not_answered(index: int) -> None:
    """Frame 0 was answered in time, 1 was a hit, 7 never was."""
    cascade = build()
    assert ask(cascade, 0, 1, 1, scene=1).level == "cloud"
    assert ask(cascade, 1, 1, 1, SURE, scene=1).hit
    fallback(cascade, 2, 1)
    before = weights(cascade)
    assert cascade.on_late_reply(Reply(index, logits(3, SURE)), 3.0) is None
    assert weights(cascade) == before
    assert cascade.tally.late == 0


def test_a_late_reply_comes_once() -> None:
    cascade = build()
    fallback(cascade, 0, 1)
    for _ in range(2):
        cascade.on_late_reply(Reply(0, logits(3, SURE)), 1.0)
    assert cascade.tally.late == 1


def audited(cascade: Cascade, first: int, label: int = 1, brightness: float = 90.0) -> Answer:
    """Frames with one label until a hit is to be audited; its answer."""
    for index in range(first, first + 200):
        step = cascade.lookup(frame(index, logits(label, SURE), grey(brightness)), float(index))
        reply = None if isinstance(step, Hit) else Reply(index, logits(label, SURE))
        answer = cascade.complete(step, reply, index + 0.1)
        if answer.audit:
            return answer
    raise AssertionError("no hit was audited")


def test_an_audited_hit_keeps_its_answer_and_is_learned() -> None:
    cascade = build(audit_floor=0.2)
    answer = audited(cascade, 0)
    assert answer.hit and answer.label == 1
    before, entries = weights(cascade), len(cascade.estimator.cache)
    hits = dict(cascade.tally.hits)
    cascade.on_audit_reply(Reply(answer.frame, logits(3, SURE)), 100.0)
    assert cascade.audits is not None
    assert (cascade.audits.judged, cascade.audits.wrong) == (1, 1)
    assert weights(cascade) != before
    assert len(cascade.estimator.cache) == entries, "the same picture: the newer answer takes the place of the older"
    assert cascade.tally.hits == hits and cascade.tally.corrections == cascade.tally.late == 0
    assert cascade.tally.overruled == 0


def test_an_audit_that_agrees_is_no_error() -> None:
    cascade = build(audit_floor=0.2)
    answer = audited(cascade, 0)
    cascade.on_audit_reply(Reply(answer.frame, logits(1, SURE)), 100.0)
    assert cascade.audits is not None
    assert (cascade.audits.sent, cascade.audits.judged, cascade.audits.wrong) == (1, 1, 0)


def test_an_audit_counts_once_and_only_for_a_hit_that_was_sent() -> None:
    cascade = build(audit_floor=0.2)
    answer = audited(cascade, 0)
    for index in (answer.frame, answer.frame, 5000):
        cascade.on_audit_reply(Reply(index, logits(1, SURE)), 100.0)
    assert cascade.audits is not None
    assert cascade.audits.judged == 1


def test_an_audit_does_not_change_the_answer() -> None:
    """An audited frame is looked at by the base model as well; the answer is what it would have been."""
    cascade, held = build(), 0
    for index in range(60):
        shown = frame(index, logits(1, SURE), grey(90.0 + index // 20))
        twin = copy.deepcopy(cascade)
        twin.audits = Audits(0.02, 1.0, lambda: 0.0)
        step, audited_step = cascade.lookup(shown, float(index)), twin.lookup(shown, float(index))
        if isinstance(step, Hit):
            assert isinstance(audited_step, Hit) and audited_step.audit and not step.audit
            assert audited_step.prediction == step.prediction
            held += step.prediction.level == "frames"
        cascade.complete(step, None if isinstance(step, Hit) else Reply(index, logits(1, SURE)), index + 0.1)
    assert held >= 5


def test_wrong_hits_found_by_audits_lead_to_misses() -> None:
    """The base model is sure of a mistake, and so is every risk model. Only audits can tell."""
    cascade = build(audit_floor=0.25)
    assert cascade.audits is not None
    calm(cascade, 1, 60)
    asked = []
    for index in range(60, 260):
        step = cascade.lookup(frame(index, logits(1, SURE)), float(index))
        asked.append(not isinstance(step, Hit))
        answer = cascade.complete(step, Reply(index, logits(2, SURE)) if asked[-1] else None, index + 0.1)
        if answer.audit:
            cascade.on_audit_reply(Reply(index, logits(2, SURE)), index + 0.1)
    assert cascade.audits.wrong > 0
    cache = cascade.estimator.cache
    assert cache.labels[cache.last] == 2, "the held answer is the full model's"
    step = cascade.lookup(frame(260, logits(1, SURE)), 260.0)
    assert not isinstance(step, Hit) or step.prediction.label == 2


def test_an_alarm_of_the_audits_lowers_the_threshold_at_once() -> None:
    cascade = build(audit_floor=0.25)
    assert cascade.audits is not None
    index = 0
    while cascade.audits.alarms == 0:
        answer = audited(cascade, index, label=index % 3, brightness=10.0 * (index % 20))
        cascade.on_audit_reply(Reply(answer.frame, logits(3, SURE)), 0.0)
        index = answer.frame + 1
        assert index < 5000
    assert cascade.audits.scale == 0.5
    assert cascade.threshold <= 0.5 * 0.02


def test_without_audits_no_hit_is_audited() -> None:
    cascade = build()
    answers = calm(cascade, 1, 100)
    assert not any(answer.audit for answer in answers)
    cascade.on_audit_reply(Reply(50, logits(3, SURE)), 100.0)


def test_the_measured_agreement_leaves_fallbacks_out() -> None:
    cascade = build(audit_floor=0.5)
    assert cascade.audits is not None
    calm(cascade, 1, 50)
    counted = cascade.audits._frames
    fallback(cascade, 50, 2)
    assert cascade.audits._frames == counted == 50


def test_the_oldest_pending_requests_are_forgotten() -> None:
    """Pending requests are bounded; a reply to a forgotten request is ignored."""
    cascade = build()
    for index in range(70):
        fallback(cascade, index, index % 3)
    assert cascade.on_late_reply(Reply(0, logits(3, SURE)), 70.0) is None
    assert cascade.tally.late == 0
    cascade.on_late_reply(Reply(69, logits(3, SURE)), 70.0)
    assert cascade.tally.late == 1


def test_a_late_reply_is_learned_for_its_own_frame() -> None:
    """Its candidates are those of its own frame: the base model was unsure then, and is sure now."""
    late, prompt = build(), build()
    for cascade in (late, prompt):
        calm(cascade, 1, 3)
        cascade._budget.threshold = 1e-9
    step = late.lookup(frame(3, logits(1, UNSURE)), 3.0)
    late.complete(step, None, 3.1)
    late.on_late_reply(Reply(3, logits(2, SURE)), 3.2)
    step = prompt.lookup(frame(3, logits(1, UNSURE)), 3.0)
    prompt.complete(step, Reply(3, logits(2, SURE)), 3.1)
    for stage, (first, _) in late.estimator.state.items():
        np.testing.assert_array_equal(first, prompt.estimator.state[stage][0])
