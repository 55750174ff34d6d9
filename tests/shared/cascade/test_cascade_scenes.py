"""Changes of the scene and pictures that the bundle was not made for, on drawn pictures."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from cachenet.models.certify.distribution import fit_quantiles
from cachenet.shared.cascade.build_cascade import build_cascade
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.distribution import MISSES_BEFORE_UNKNOWN, Distribution
from cachenet.shared.cascade.frame import Signature
from cachenet.shared.cascade.spec import CascadeSpec
from cachenet.shared.cascade.types import Answer, Miss, Reply
from tests.shared.cascade.streams import (
    CLASSES,
    SURE,
    View,
    build,
    frame,
    local,
    logits,
    noise_stream,
    noisy,
    priors,
    scenery,
    signature,
)


def play(
    cascade: Cascade, pictures: list[Signature], view: View, full: int | None, first: int = 0, margin: float = SURE
) -> list[Answer]:
    """Frames with these pictures, that the full model answers with the label ``full``; None: offline."""
    answers = []
    for index, picture in enumerate(pictures, first):
        step = cascade.lookup(frame(index, view, picture), float(index))
        reply = None if full is None else Reply(index, logits(full, margin))
        answer = cascade.complete(step, reply if isinstance(step, Miss) else None, index + 0.1)
        if answer.audit and reply is not None:
            cascade.on_audit_reply(reply, index + 0.1)
        answers.append(answer)
    return answers


def test_a_change_of_light_resets_the_stream_and_raises_the_audit_rate() -> None:
    cascade = build(0.1, audit_floor=0.02)
    assert cascade.audits is not None
    play(cascade, list(noise_stream(150)), logits(1, SURE), 1)
    held = cascade.estimator.cache
    learned = cascade.estimator.state["base"][1].copy()
    assert held.labels[held.last] == 1 and cascade.audits.rate == 0.02
    dark = list(noise_stream(100, seed=1000, picture=0.4 * scenery()))
    assert cascade.threshold > 0.3
    before = play(cascade, dark[:2], logits(2, SURE), 2, first=150)
    assert cascade.tally.scene_changes == 0
    at = play(cascade, dark[2:3], logits(2, SURE), 2, first=152)
    assert cascade.tally.scene_changes == 1
    assert cascade.audits.rate == 0.25
    assert cascade.threshold <= 0.101, "strict at first"
    assert set(cascade.estimator.cache.indices.tolist()) <= {152}, "nothing of the old scene is held"
    assert cascade.estimator.state["base"][1].trace() < learned.trace(), "what was learned counts less"
    after = play(cascade, dark[3:], logits(2, SURE), 2, first=153)
    assert {answer.label for answer in (*before, *at, *after[10:])} == {2}
    assert sum(answer.audit for answer in after) >= 10
    assert cascade.tally.scene_changes == 1


def test_after_a_change_of_light_held_answers_are_learned_again() -> None:
    """By night the base model errs on every frame. Within a hundred frames the cache is within the budget again."""
    cascade = build(audit_floor=0.02)
    play(cascade, list(noise_stream(200)), logits(1, 5.0), 1)
    night = list(noise_stream(250, seed=1000, picture=0.4 * scenery()))
    answers = play(cascade, night, logits(1, 5.0), 3, first=200)
    assert cascade.tally.scene_changes == 1
    assert sum(answer.label != 3 for answer in answers[100:]) <= 0.02 * 150


def test_unrelated_pictures_are_no_scene_change() -> None:
    cascade = build(audit_floor=0.02)
    play(cascade, [signature(scenery(seed=index)) for index in range(300)], logits(1, SURE), 1)
    assert cascade.tally.scene_changes == 0


def test_a_moving_object_is_no_scene_change() -> None:
    cascade, pictures = build(audit_floor=0.02), list(noise_stream(120))
    for index in range(120):
        walked = noisy(scenery(), index)
        walked[4:22, index % 24 : index % 24 + 8] = 250.0
        pictures.append(signature(walked))
    play(cascade, pictures, logits(1, SURE), 1)
    assert cascade.tally.scene_changes == 0


def shown(level: float = 8.0, least: float = 0.3) -> Distribution:
    """What scores of a full and a base model look like whose largest logit is about ``level``."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0.0, 1.0, (500, CLASSES))
    scores[:, 0] += level
    fitted = fit_quantiles(scores.astype(np.float32), scores.astype(np.float32))
    return msgspec.structs.replace(fitted, least=least)


@pytest.fixture
def watched() -> Cascade:
    """One that knows what its bundle was made for."""
    spec = CascadeSpec(CLASSES, "full", priors=priors(), distribution=shown(), audit_floor=0.1, seed="camera")
    return build_cascade(spec, local("base", level="base"), 100)


#: Scores so low as neither model gives where it knows what it sees.
LOW = 1.0


def pictures(frames: int, seed: int = 0) -> list[Signature]:
    """Of changing things before one scene."""
    made = []
    for index in range(seed, seed + frames):
        picture = noisy(scenery(), index)
        picture[4:22, 3 * (index // 10 % 8) : 3 * (index // 10 % 8) + 8] = 250.0 if index // 80 % 2 else 5.0
        made.append(signature(picture))
    return made


def test_out_of_distribution_frames_are_misses_and_then_unknown(watched: Cascade) -> None:
    answers = play(watched, pictures(400), logits(1, LOW), 1, margin=LOW)
    asked = [answer.level == "cloud" for answer in answers]
    first = asked.index(False)
    assert MISSES_BEFORE_UNKNOWN - 2 <= first <= MISSES_BEFORE_UNKNOWN + 2
    assert not any(asked[first:])
    assert {(answer.label, answer.level, answer.risk) for answer in answers[first:]} == {(None, "base", 1.0)}
    assert watched.tally.unknown == 400 - first
    assert watched.out_of_distribution
    assert {answer.reason for answer in answers[1:first]} == {"out of distribution"}


def test_unknown_answers_are_hits_that_are_audited_and_never_wrong(watched: Cascade) -> None:
    play(watched, pictures(400), logits(1, LOW), 1, margin=LOW)
    assert watched.audits is not None
    assert watched.audits.judged > 10 and watched.audits.wrong == 0
    assert sum(watched.tally.levels().values()) == 400


def test_a_stream_that_comes_back_into_distribution_is_answered_again(watched: Cascade) -> None:
    play(watched, pictures(120), logits(1, LOW), 1, margin=LOW)
    answers = play(watched, pictures(300, seed=120), logits(1, SURE), 1, first=120)
    assert not watched.out_of_distribution
    assert {answer.label for answer in answers[150:]} == {1}
    assert any(answer.hit for answer in answers[150:])


def test_in_distribution_nothing_is_unknown(watched: Cascade) -> None:
    answers = play(watched, pictures(300), logits(1, SURE), 1)
    assert watched.tally.unknown == 0
    assert {answer.label for answer in answers} == {1}


def test_a_still_picture_out_of_distribution_is_unknown_too(watched: Cascade) -> None:
    """Its held answer would be a hit, so that no model runs on it any more."""
    answers = play(watched, list(noise_stream(400)), logits(1, LOW), 1, margin=LOW)
    assert answers[-1].label is None


def test_out_of_distribution_offline_is_a_risky_fallback_and_then_unknown(watched: Cascade) -> None:
    answers = play(watched, pictures(MISSES_BEFORE_UNKNOWN + 50), logits(1, LOW), None)
    guesses, rest = answers[: MISSES_BEFORE_UNKNOWN - 2], answers[MISSES_BEFORE_UNKNOWN + 2 :]
    assert {(answer.label, answer.level) for answer in guesses} == {(1, "fallback")}
    assert min(answer.risk for answer in guesses[1:]) >= 0.5
    assert {(answer.label, answer.level) for answer in rest} == {(None, "base")}
    correction = watched.on_late_reply(Reply(MISSES_BEFORE_UNKNOWN - 10, logits(2, SURE)), 300.0)
    assert correction is not None and correction.label == 2


def test_a_bundle_without_a_distribution_never_answers_unknown() -> None:
    spec = CascadeSpec(CLASSES, "full", priors=priors(), distribution=shown(least=0.0))
    cascade = build_cascade(spec, local("base", level="base"), 100)
    play(cascade, pictures(150), logits(1, LOW), 1, margin=LOW)
    assert cascade.tally.unknown == 0
    assert not cascade.out_of_distribution
