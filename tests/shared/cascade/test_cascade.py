"""The cascade: every frame has one answer, the full model is never overruled, and what comes back is learned."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.shared.cascade import replay
from cachenet.shared.cascade.cascade import RECENT_LABELS, Cascade
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.risk_estimator import FIRST_ANSWERS
from cachenet.shared.cascade.types import Answer, Hit, Miss, Reply, Step
from tests.shared.cascade.streams import (
    CLASSES,
    SURE,
    UNSURE,
    build,
    frame,
    local,
    logits,
    noisy,
    recorded,
    scenery,
    signature,
    trace,
)


@dataclass(frozen=True)
class Event:
    """One frame of a made-up stream, what becomes of its question, and a reply that may come late before it."""

    label: int
    margin: float
    scene: int
    reply: Literal["answer", "on device", "damaged", "none"]
    full_label: int
    submodel: str | None
    late: int | None


events = st.lists(
    st.builds(
        Event,
        st.integers(0, CLASSES - 1),
        st.sampled_from([0.0, 0.3, 2.0, 6.0, 12.0]),
        st.integers(0, 2),
        st.sampled_from(["answer", "answer", "on device", "damaged", "none"]),
        st.integers(0, CLASSES - 1),
        st.sampled_from([None, None, "special", "other"]),
        st.none() | st.integers(1, 70),
    ),
    max_size=90,
)


def play(cascade: Cascade, stream: list[Event]) -> list[Answer]:
    """Drive the cascade as a caller does, and check what must hold at every step."""
    answers = []
    for index, event in enumerate(stream):
        if event.late is not None and event.late <= index:
            late = Reply(index - event.late, logits(event.full_label, SURE))
            correction = cascade.on_late_reply(late, float(index))
            assert correction is None or correction.label == event.full_label
            cascade.on_audit_reply(late, float(index))
        picture = signature(noisy(scenery(event.scene), index))
        step = cascade.lookup(frame(index, logits(event.label, event.margin), picture), float(index))
        scores, threshold = logits(event.full_label, SURE), cascade.threshold
        if event.reply == "damaged":
            scores = scores * np.float32(np.nan)
        if isinstance(step, Miss) and event.reply != "none":
            on_device = event.reply == "on device"
            reply = Reply(index, scores, event.submodel, on_device=on_device)
            answer = cascade.complete(step, reply, index + 0.1)
            if event.reply == "damaged":
                assert answer.level == "fallback"
            else:
                assert (answer.level, answer.label) == ("full" if on_device else "cloud", event.full_label)
                assert answer.risk == 0.0
            assert not answer.hit
        else:
            answer = cascade.complete(step, None, index + 0.1, "late")
            assert answer.hit == isinstance(step, Hit)
            if isinstance(step, Hit):
                assert (answer.level, answer.label) == (step.prediction.level, step.prediction.label)
                assert answer.reason == ""
                assert step.prediction.charge <= step.prediction.risk <= threshold
            else:
                assert answer.level == "fallback"
                assert answer.reason.endswith("; late")
        assert answer.frame == index
        assert answer.label is not None and 0 <= answer.label < CLASSES
        assert 0 <= answer.risk <= 1 and 0 <= answer.confidence <= 1
        answers.append(answer)
        tally = cascade.tally
        assert sum(tally.hits.values()) + tally.full + tally.cloud + tally.fallbacks == tally.frames == index + 1
        assert sum(tally.levels().values()) == tally.frames
        assert tally.corrections <= tally.late <= tally.fallbacks
        assert tally.overruled == 0
        assert len(cascade._late) <= 64 and len(cascade._audited) <= 64
        assert len(cascade._recent) <= RECENT_LABELS
        assert np.isclose(cascade.estimator.filter.belief.sum(), 1.0)
    return answers


@settings(max_examples=60)
@given(events, st.booleans(), st.sampled_from([0.0, 0.5]), st.booleans())
def test_hits_full_cloud_and_fallbacks_are_the_frames_and_the_full_model_is_never_overruled(
    stream: list[Event], with_priors: bool, audit_floor: float, reuse_answers: bool
) -> None:
    cascade = build(with_priors=with_priors, audit_floor=audit_floor, reuse_answers=reuse_answers)
    cascade.install(local("special", 0.9, cost=10))
    play(cascade, stream)


@settings(max_examples=20)
@given(events)
def test_the_same_input_gives_the_same_answers(stream: list[Event]) -> None:
    assert play(build(audit_floor=0.3), stream) == play(build(audit_floor=0.3), stream)


def test_a_stream_is_replayed_bit_for_bit() -> None:
    shown = trace(5, 300)
    first, again = (replay.run(recorded(shown, audit_floor=0.05), shown) for _ in range(2))
    assert np.array_equal(first.labels, again.labels)
    assert first.risks.tobytes() == again.risks.tobytes()
    assert np.array_equal(first.asked, again.asked)
    assert first.levels == again.levels


@pytest.mark.parametrize("with_priors", [True, False])
def test_most_frames_of_a_calm_camera_are_hits_and_they_keep_within_the_budget(with_priors: bool) -> None:
    wrong, asked, frames = 0, 0, 0
    for seed in range(3):
        shown = trace(seed, 400)
        run = replay.run(recorded(shown, with_priors=with_priors, audit_floor=0.02), shown)
        wrong += int(disagreements(run.labels, shown.labels).sum())
        asked += int(run.asked.sum())
        frames += len(shown)
    assert wrong <= 0.02 * frames
    assert asked <= (0.1 if with_priors else 0.25) * frames


def test_a_larger_budget_asks_less() -> None:
    shown = trace(7, 400, error=0.3)
    strict, generous = (replay.run(recorded(shown, budget=budget), shown) for budget in (0.002, 0.1))
    assert generous.asked.sum() < strict.asked.sum()


def ask(cascade: Cascade, index: int, label: int, full: int | None, margin: float = UNSURE, scene: int = 0) -> Answer:
    """One frame, and the full model's answer if it is asked; None: none comes."""
    step = cascade.lookup(frame(index, logits(label, margin), signature(scenery(scene))), float(index))
    reply = None if full is None or isinstance(step, Hit) else Reply(index, logits(full, SURE))
    return cascade.complete(step, reply, index + 0.1)


def calm(cascade: Cascade, label: int, frames: int, first: int = 0, margin: float = SURE) -> list[Answer]:
    """Frames on which all models are of one mind."""
    return [ask(cascade, index, label, label, margin) for index in range(first, first + frames)]


def test_a_fresh_answer_of_the_full_model_is_never_overruled() -> None:
    cascade = build()
    calm(cascade, 1, 100)
    cascade._budget.threshold = 1e-9  # so that the frame is a miss
    answer = ask(cascade, 100, 1, 3, SURE)
    assert (answer.level, answer.label, answer.risk) == ("cloud", 3, 0.0)
    assert cascade.tally.overruled == 0


@pytest.mark.parametrize("scale", [0.99, 1.01])
def test_the_threshold_decides_between_hit_and_miss(scale: float) -> None:
    cascade = build(reuse_answers=False)
    ask(cascade, 0, 1, 1)
    step = cascade.lookup(frame(1, logits(1, 2.0)), 1.0)
    risk = step.prediction.risk if isinstance(step, Hit) else step.fallback.risk
    cascade = build(reuse_answers=False)
    ask(cascade, 0, 1, 1)
    cascade._budget.threshold = scale * risk
    assert isinstance(cascade.lookup(frame(1, logits(1, 2.0)), 1.0), Hit) == (scale > 1)


def test_a_hit_is_charged_the_risk_at_the_mean_weights_and_a_full_answer_nothing() -> None:
    cascade = build()
    before = cascade.threshold
    ask(cascade, 0, 1, 1)
    assert cascade.threshold > before
    before = cascade.threshold
    step = cascade.lookup(frame(1, logits(1, SURE)), 1.0)
    assert isinstance(step, Hit)
    cascade.complete(step, None, 1.1)
    charged = 0.005 * (1.0 - step.prediction.charge / 0.02)
    assert np.log(cascade.threshold / before) == pytest.approx(charged)


def test_an_unchanged_picture_is_answered_without_a_probe() -> None:
    cascade = build()
    calm(cascade, 1, 40)
    answers = []
    for index in range(40, 60):
        step = cascade.lookup(frame(index, {}), float(index))  # a model that looks would raise KeyError
        assert isinstance(step, Hit)
        answers.append(cascade.complete(step, None, index + 0.1))
    assert {(answer.level, answer.label, answer.model) for answer in answers} == {("frames", 1, "full")}


def test_an_answer_is_not_held_where_the_models_outputs_change() -> None:
    """The picture changes; the base model sees the same label, or is sure of another."""
    cascade = build()
    calm(cascade, 1, 40)
    walked = scenery().copy()
    walked[6:22, 4:20] = 250.0
    step = cascade.lookup(frame(40, logits(3, SURE), signature(walked)), 40.0)
    label = step.prediction.label if isinstance(step, Hit) else None
    assert label != 1


def test_without_priors_every_frame_is_a_miss_until_there_are_enough_answers() -> None:
    cascade, levels = build(with_priors=False), []
    for index in range(FIRST_ANSWERS + 30):
        answer = ask(cascade, index, index // 20 % 2, index // 20 % 2, SURE)
        levels.append(answer.level)
        if index < FIRST_ANSWERS:
            assert answer.level == "cloud"
            assert answer.reason == "no risk is known yet"
    assert cascade.estimator.ready
    assert "base" in levels or "frames" in levels


def test_a_miss_has_deadline_fallback_and_recent_labels() -> None:
    cascade = build()
    for index, label in enumerate((1, 1, 2, 3)):
        cascade._budget.threshold = 1e-9
        ask(cascade, index, label, label)
    cascade._budget.threshold = 1e-9
    step = cascade.lookup(frame(4, logits(0, UNSURE)), 10.0)
    assert isinstance(step, Miss)
    assert step.recent == (1, 2, 3), "an object that stays is one thing seen"
    assert (step.begun, step.deadline) == (10.0, 10.25)
    assert step.fallback.risk > cascade.threshold
    assert "over 0.000" in step.reason
    assert 0 < step.max_exit_risk < 0.02, "an early exit may not take the whole budget"


def test_before_the_first_answer_there_is_a_fallback() -> None:
    for cascade in (build(), build(with_priors=False), build(reuse_answers=False)):
        answer = ask(cascade, 0, 2, None)
        assert (answer.level, answer.label) == ("fallback", 2)
    without = build()
    without.base = None
    step = without.lookup(frame(0), 0.0)
    assert without.complete(step, None, 0.1, "no answer in time").label == 0


@pytest.mark.parametrize("with_priors", [True, False])
def test_offline_every_frame_has_an_answer(with_priors: bool) -> None:
    cascade = build(with_priors=with_priors, audit_floor=0.02)
    for index in range(120):
        answer = ask(cascade, index, index // 10 % CLASSES, None, margin=3.0, scene=index // 10 % 3)
        assert answer.level in ("fallback", "base", "frames")
    assert cascade.tally.fallbacks + sum(cascade.tally.hits.values()) == 120
    assert cascade.tally.cloud == cascade.tally.full == 0


def test_a_fallback_updates_the_round_trip_alone() -> None:
    cascade = build()
    calm(cascade, 1, 5)
    before = {stage: tuple(part.copy() for part in parts) for stage, parts in cascade.estimator.state.items()}
    entries, recent = cascade.estimator.cache.indices.copy(), list(cascade._recent)
    cascade._budget.threshold = 1e-9
    assert ask(cascade, 5, 2, None).level == "fallback"
    for stage, parts in cascade.estimator.state.items():
        assert all(np.array_equal(one, old) for one, old in zip(parts, before[stage], strict=True))
    assert np.array_equal(cascade.estimator.cache.indices, entries)
    assert list(cascade._recent) == recent


def test_without_local_models_a_still_picture_is_held_and_another_is_a_miss() -> None:
    cascade = build()
    cascade.base = cascade.submodels = None
    levels = []
    for index in range(60):
        step = cascade.lookup(frame(index), float(index))
        reply = Reply(index, logits(2, SURE)) if isinstance(step, Miss) else None
        levels.append(cascade.complete(step, reply, index + 0.1).level)
    assert levels[-1] == "frames"
    walked = scenery().copy()
    walked[6:22, 4:20] = 250.0
    assert isinstance(cascade.lookup(frame(60, picture=signature(walked)), 60.0), Miss)


@settings(max_examples=25)
@given(st.integers(0, 2**16), st.sampled_from([0.02, 0.2, 0.9]))
def test_without_reuse_of_answers_a_hit_has_the_label_of_a_model(seed: int, budget: float) -> None:
    """Also where the base model gives one label and a submodel another."""
    rng, cascade = np.random.default_rng(seed), build(budget, reuse_answers=False)
    cascade.install(local("special", 0.9))
    for index in range(40):
        views = {name: logits(int(rng.integers(CLASSES)), float(rng.uniform(0, 9))) for name in ("base", "special")}
        step = cascade.lookup(frame(index, dict(views), signature(noisy(scenery(), index))), float(index))
        if isinstance(step, Hit):
            assert step.prediction.level != "frames"
            assert step.prediction.label == int(views[step.prediction.model].argmax())
        full = int(rng.integers(CLASSES))
        cascade.complete(step, Reply(index, logits(full, SURE)) if isinstance(step, Miss) else None, index + 0.1)


def test_the_picture_is_released_when_its_frame_ends() -> None:
    class View(dict[str, npt.NDArray[np.float32]]):
        pass

    cascade, views = build(audit_floor=0.9), []
    for index in range(30):
        view = View(base=logits(index % CLASSES, (UNSURE, SURE)[index % 2]))
        views.append(weakref.ref(view))
        step: Step | None = cascade.lookup(frame(index, view), float(index))
        assert step is not None
        cascade.complete(step, None if index % 3 else Reply(index, logits(1, SURE)), index + 0.1)
    del view, step
    gc.collect()
    assert [ref() for ref in views] == [None] * 30


def test_the_risk_of_an_early_exit_is_charged_to_the_budget() -> None:
    """The more the server risks, the surer a hit must be."""

    def after(risk: float | None) -> float:
        cascade = build(with_priors=False)
        for index in range(FIRST_ANSWERS - 1):
            step = cascade.lookup(frame(index, logits(index % CLASSES, 0.0)), float(index))
            assert isinstance(step, Miss)
            reply = Reply(index, logits(index % CLASSES, SURE), exit_risk=risk)
            answer = cascade.complete(step, reply, index + 0.1)
            assert answer.risk == (risk or 0.0)
        return cascade.threshold

    assert after(0.1) < after(0.03) < after(0.01) < after(None)


@pytest.mark.parametrize("classes", [1, 2, CLASSES - 1, CLASSES + 1, 1000])
def test_any_number_of_labels_will_do(classes: int) -> None:
    from cachenet.shared.cascade.build_cascade import build_cascade
    from cachenet.shared.cascade.spec import CascadeSpec

    cascade = build_cascade(CascadeSpec(classes, "full", audit_floor=0.5), local("base", level="base", classes=classes))
    for index in range(FIRST_ANSWERS + 10):
        label = (index // 20 * 7) % classes
        step = cascade.lookup(frame(index, logits(label, 3.0, classes)), float(index))
        reply = Reply(index, logits(label, SURE, classes))
        answer = cascade.complete(step, reply if isinstance(step, Miss) else None, index + 0.1)
        if answer.audit:
            cascade.on_audit_reply(reply, index + 0.1)
        assert answer.label is not None and 0 <= answer.label < classes
    assert cascade.tally.frames == FIRST_ANSWERS + 10


def test_a_tally_continues_after_a_change_of_bundle() -> None:
    cascade = build()
    calm(cascade, 1, 10)
    next_one = Cascade(cascade.spec, build().estimator, cascade.base, tally=cascade.tally)
    calm(next_one, 1, 5, first=10)
    assert next_one.tally.frames == 15
