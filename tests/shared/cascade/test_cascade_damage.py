"""Models whose scores are damaged: a look that is none, an answer that is none, and no lasting harm."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.types import Hit, Miss, Reply
from tests.shared.cascade.streams import CLASSES, SURE, build, frame, grey, local, logits
from tests.shared.cascade.test_cascade import calm

Scores = npt.NDArray[np.float32]


def poisoned(value: float) -> Scores:
    scores = logits(1, SURE)
    scores[2] = value
    return scores


#: What a damaged model may give.
damaged = pytest.mark.parametrize(
    "scores",
    [
        poisoned(np.nan),
        poisoned(np.inf),
        poisoned(-np.inf),
        np.full(CLASSES, np.nan, np.float32),
        logits(1, SURE, CLASSES + 1),
        logits(1, SURE, CLASSES - 1),
        np.zeros(0, np.float32),
        logits(1, SURE)[None],
    ],
    ids=["NaN", "infinite", "minus infinite", "all NaN", "one more", "one fewer", "none", "a batch"],
)


def is_healthy(cascade: Cascade) -> bool:
    """Whether all that was learned is finite."""
    estimator = cascade.estimator
    states = [part for parts in estimator.state.values() for part in parts]
    return all(np.isfinite(part).all() for part in (estimator.filter.belief, estimator.filter.after_change, *states))


def play(cascade: Cascade, views: dict[str, Scores], first: int, frames: int = 20) -> list[str]:
    """Frames of changing pictures; the levels that answered."""
    levels: list[str] = []
    for index in range(first, first + frames):
        step = cascade.lookup(frame(index, dict(views), grey(10.0 * (index % 20))), float(index))
        reply = Reply(index, logits(1, SURE)) if isinstance(step, Miss) else None
        answer = cascade.complete(step, reply, index + 0.1)
        if answer.audit:
            cascade.on_audit_reply(Reply(index, logits(1, SURE)), index + 0.1)
        levels.append(answer.level)
    return levels


@damaged
def test_damaged_scores_of_the_base_model_are_ignored(scores: Scores) -> None:
    cascade = build(audit_floor=0.3)
    calm(cascade, 1, 30)
    levels = play(cascade, {"base": scores}, 30)
    assert "base" not in levels
    assert is_healthy(cascade)
    assert set(play(cascade, {"base": logits(1, SURE)}, 50)) & {"base", "frames"}, "whole again, it answers again"


@damaged
def test_damaged_scores_of_a_submodel_are_ignored(scores: Scores) -> None:
    cascade = build(audit_floor=0.3)
    cascade.install(local("special", 0.9))
    calm(cascade, 1, 30)
    levels = play(cascade, {"base": logits(1, 0.3), "special": scores}, 30)
    assert "submodels" not in levels
    assert is_healthy(cascade)


def test_no_submodel_replaces_a_damaged_base_model() -> None:
    cascade = build()
    cascade.install(local("special", 0.9))
    step = cascade.lookup(frame(0, {"base": poisoned(np.nan), "special": logits(1, SURE)}), 0.0)
    assert isinstance(step, Miss)
    cascade.complete(step, Reply(0, logits(1, SURE)), 0.1)
    assert np.isnan(cascade.estimator.cache.probabilities).all(), "no base model has looked"


@damaged
def test_damaged_scores_of_the_full_model_are_no_reply(scores: Scores) -> None:
    cascade = build(audit_floor=0.3)
    step = cascade.lookup(frame(0, logits(3, 0.3)), 0.0)
    answer = cascade.complete(step, Reply(0, scores), 0.1)
    assert answer.level == "fallback"
    assert answer.reason.endswith("; the full model's scores are damaged")
    assert np.isfinite(answer.confidence)
    assert len(cascade.estimator.cache) == 0
    assert cascade.on_late_reply(Reply(0, scores), 0.2) is None
    assert (cascade.tally.late, cascade.tally.corrections) == (0, 0)
    assert is_healthy(cascade)


@damaged
def test_damaged_scores_of_an_audit_are_ignored(scores: Scores) -> None:
    cascade = build(audit_floor=0.9)
    calm(cascade, 1, 10)
    step = cascade.lookup(frame(10, logits(1, SURE)), 10.0)
    answer = cascade.complete(step, None, 10.1)
    assert isinstance(step, Hit) and answer.audit
    cascade.on_audit_reply(Reply(10, scores), 10.2)
    assert cascade.audits is not None and cascade.audits.judged == 0
    assert is_healthy(cascade)


@damaged
def test_a_damaged_full_model_on_the_device_does_not_answer(scores: Scores) -> None:
    cascade = build()
    cascade.install(local("full"))
    step = cascade.lookup(frame(0, {"base": logits(3, 0.3), "full": scores}), 0.0)
    assert isinstance(step, Miss)
    assert cascade.run_full(step, 0.0) is None


def test_huge_finite_scores_are_valid() -> None:
    cascade = build(audit_floor=0.3)
    huge = np.array([-3e38, 3e38, -3e38, 0.0], np.float32)
    calm(cascade, 1, 10)
    assert set(play(cascade, {"base": huge}, 10)) & {"base", "frames"}
    assert is_healthy(cascade)
