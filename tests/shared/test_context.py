"""The filter over labels: what must hold whatever it hears, and what it is for."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.context import FORGETFUL, Context, ContextParameters
from shared.gate import Posterior, risk

CLASSES = 5
PARAMETERS = ContextParameters()

novelties = st.none() | st.floats(0, 1) | st.sampled_from([0.0, 1.0])
labels = st.integers(0, CLASSES - 1)


@st.composite
def likelihoods(draw: st.DrawFn) -> Posterior:
    """From flat to one-hot, zeros and denormals included."""
    weights = np.array(draw(st.lists(st.floats(0, 1), min_size=CLASSES, max_size=CLASSES)))
    weights[draw(labels)] = 1.0
    likelihood: Posterior = weights / weights.sum()
    return likelihood


def word(label: int, confidence: float, classes: int = CLASSES) -> Posterior:
    """What a model says that is this sure of one label and knows nothing of the others."""
    likelihood = np.full(classes, (1 - confidence) / (classes - 1))
    likelihood[label] = confidence
    return likelihood


def proper(belief: Posterior, parameters: ContextParameters = PARAMETERS) -> bool:
    least = parameters.floor / len(belief) / (1 + parameters.floor)
    return bool(abs(belief.sum() - 1) < 1e-9 and belief.min() >= least * (1 - 1e-9))


@given(st.lists(st.tuples(novelties, st.none() | likelihoods(), st.none() | labels), max_size=90))
def test_the_belief_is_always_a_probability_and_never_certain(
    frames: list[tuple[float | None, Posterior | None, int | None]],
) -> None:
    context = Context(CLASSES)
    for index, (novelty, likelihood, verified) in enumerate(frames):
        assert proper(context.advance(index, novelty))
        if likelihood is not None:
            assert proper(context.observe(likelihood))
        if verified is not None:
            context.learn(verified)
        assert proper(context.working_set())
        assert proper(context.belief)


@given(
    st.builds(
        ContextParameters,
        st.floats(0, 1),
        st.floats(0, 1),
        st.floats(1, 1e6),
        st.floats(0, 1),
        st.floats(0, 1),
    ),
    st.lists(st.tuples(novelties, likelihoods()), max_size=20),
)
def test_no_parameters_break_it(parameters: ContextParameters, frames: list[tuple[float | None, Posterior]]) -> None:
    context = Context(CLASSES, parameters)
    for index, (novelty, likelihood) in enumerate(frames):
        context.advance(index, novelty)
        belief = context.observe(likelihood)
        context.learn(int(belief.argmax()))
        assert abs(belief.sum() - 1) < 1e-9
        assert belief.min() >= 0


@given(st.lists(st.tuples(novelties, likelihoods()), min_size=1, max_size=10), likelihoods())
def test_fusing_changes_nothing(frames: list[tuple[float | None, Posterior]], trial: Posterior) -> None:
    context, undisturbed = Context(CLASSES), Context(CLASSES)
    for index, (novelty, likelihood) in enumerate(frames):
        context.advance(index, novelty)
        undisturbed.advance(index, novelty)
        given_copy = trial.copy()
        context.fuse(trial)
        assert np.array_equal(trial, given_copy)
        assert np.array_equal(context.observe(likelihood), undisturbed.observe(likelihood))


@given(novelties, likelihoods(), likelihoods())
def test_a_frame_has_one_evidence_and_the_last_word_is_it(
    novelty: float | None, first: Posterior, second: Posterior
) -> None:
    twice, once = Context(CLASSES), Context(CLASSES)
    for context in (twice, once):
        context.advance(0, novelty)
    twice.observe(first)
    assert np.array_equal(twice.observe(second), once.observe(second))


@given(st.lists(st.tuples(novelties, st.none() | likelihoods()), min_size=1, max_size=40), likelihoods(), st.data())
def test_a_late_word_counts_as_if_it_had_come_in_time(
    frames: list[tuple[float | None, Posterior | None]], late: Posterior, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(frames) - 1))
    in_time, revised = Context(CLASSES), Context(CLASSES)
    for context in (in_time, revised):
        context.learn(1)
    for index, (novelty, likelihood) in enumerate(frames):
        for context in (in_time, revised):
            context.advance(index, novelty)
            heard = late if context is in_time and index == place else likelihood
            if heard is not None:
                context.observe(heard, full=heard is late)
    assert revised.revise(place, late)
    np.testing.assert_allclose(revised.belief, in_time.belief, atol=1e-12)
    # And it goes on the same, so what the ring remembers was put right too.
    for context in (in_time, revised):
        context.advance(len(frames))
    np.testing.assert_allclose(revised.fuse(late), in_time.fuse(late), atol=1e-12)
    assert revised.revise(place, late)
    np.testing.assert_allclose(revised.belief, in_time.belief, atol=1e-12)


def test_a_word_too_late_for_the_ring_changes_nothing() -> None:
    context = Context(CLASSES, ring=4)
    for index in range(10):
        context.advance(index)
        context.observe(word(0, 0.9))
    before = context.belief.copy()
    assert not context.revise(5, word(1, 0.99))
    assert not context.revise(99, word(1, 0.99))
    assert np.array_equal(context.belief, before)
    assert context.revise(6, word(1, 0.99))


@given(labels, st.floats(0.25, 0.9999), st.integers(1, 400), st.booleans())
@settings(max_examples=50)
def test_looking_often_at_one_picture_is_looking_once(label: int, confidence: float, frames: int, full: bool) -> None:
    """A model cannot talk itself into its own mistake: what it says of an unchanged picture counts once."""
    mistaken = word(label, confidence)
    often, once = Context(CLASSES), Context(CLASSES)
    for context, looks in ((often, frames), (once, 1)):
        context.advance(0, novelty=1.0)
        context.observe(mistaken, full)
        for index in range(1, looks):
            context.advance(index, novelty=0.0)
            context.observe(mistaken, full)
    # Only the floor, which keeps every label alive, is put in again; it makes less sure, never surer.
    assert risk(often.belief) >= risk(once.belief) - 1e-12


def test_a_slow_change_adds_up_to_a_new_look() -> None:
    """Novelty of frames that no model looked at is not lost."""
    slowly, at_once = Context(CLASSES), Context(CLASSES)
    for context in (slowly, at_once):
        context.advance(0, novelty=1.0)
        context.observe(word(0, 0.7))
    for index in range(1, 60):
        slowly.advance(index, novelty=0.05)
    at_once.advance(1, novelty=0.0)
    assert risk(slowly.fuse(word(1, 0.9))) < risk(at_once.fuse(word(1, 0.9)))
    assert slowly.fuse(word(1, 0.9)).argmax() == 1


def test_the_full_model_is_heard_where_only_local_ones_have_spoken() -> None:
    context = Context(CLASSES)
    context.advance(0, novelty=1.0)
    assert context.observe(word(0, 0.8)).argmax() == 0
    context.advance(1, novelty=0.0)
    assert context.fuse(word(1, 0.99)).argmax() == 0
    assert context.observe(word(1, 0.99), full=True).argmax() == 1
    context.advance(2, novelty=0.0)
    assert context.observe(word(0, 0.8)).argmax() == 1


def test_an_unchanged_picture_keeps_its_label() -> None:
    context = Context(CLASSES)
    context.advance(0, novelty=1.0)
    belief = context.observe(word(2, 0.95)).copy()
    for index in range(1, 500):
        context.advance(index, novelty=0.0)
    np.testing.assert_allclose(context.belief, belief)


@given(st.lists(likelihoods(), max_size=30))
def test_a_cut_lets_go(before: list[Posterior]) -> None:
    context = Context(CLASSES)
    context.learn(3)
    for index, likelihood in enumerate(before):
        context.advance(index, novelty=0.0)
        context.observe(likelihood)
    np.testing.assert_allclose(context.advance(len(before), novelty=1.0), context.working_set(), atol=1e-12)


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_novelty_never_holds_on_harder(a: float, b: float) -> None:
    def hold(novelty: float) -> float:
        context = Context(CLASSES)
        context.advance(0, novelty=1.0)
        context.observe(word(0, 0.99))
        return float(context.advance(1, novelty)[0])

    assert hold(min(a, b)) >= hold(max(a, b)) - 1e-12


def test_agreeing_frames_make_sure_and_one_contradiction_does_not_overturn() -> None:
    context = Context(CLASSES)
    risks = []
    for index in range(5):
        context.advance(index)
        risks.append(risk(context.observe(word(1, 0.8))))
    assert risks == sorted(risks, reverse=True)
    assert risks[-1] < 0.01
    context.advance(5)
    assert context.observe(word(2, 0.8)).argmax() == 1
    context.advance(6)
    context.observe(word(2, 0.8))
    context.advance(7)
    assert context.observe(word(2, 0.99)).argmax() == 2


def test_what_was_confirmed_often_is_remembered_through_an_interruption() -> None:
    context = Context(CLASSES, ContextParameters(memory=300))
    index = 0
    for label, stay in [(4, 60), (0, 10)]:
        for _ in range(stay):
            context.advance(index)
            context.observe(word(label, 0.9))
            context.learn(label)
            index += 1
    prior = context.advance(index, novelty=1.0)
    assert prior.argmax() == 4
    assert prior[4] > 0.7
    # A glance is now enough, where a newcomer needs a second look.
    assert risk(context.fuse(word(4, 0.6))) < 0.05
    assert context.fuse(word(1, 0.6))[1] < 0.5


def test_the_working_set_prefers_what_was_learned_and_forgets_it() -> None:
    context = Context(CLASSES)
    assert np.array_equal(context.working_set(), np.full(CLASSES, 1 / CLASSES))
    context.learn(0)
    once = context.working_set()[0]
    for _ in range(20):
        context.learn(0)
    assert 1 / CLASSES < once < context.working_set()[0] < 1 - PARAMETERS.stranger * (1 - 1 / CLASSES) + 1e-9
    for _ in range(int(5 * PARAMETERS.memory)):
        context.learn(1)
    assert context.working_set().argmax() == 1
    assert context.working_set()[0] < 0.05


def test_an_object_that_stays_counts_as_one_thing_seen() -> None:
    """The working set is of objects, not of frames: a long stay does not crowd out what came before."""
    context = Context(CLASSES)
    for index, (label, novelty) in enumerate([(1, 1.0), (2, 1.0)] + [(2, 0.0)] * 100):
        context.advance(index, novelty)
        context.observe(word(label, 0.9))
        context.learn(label)
    assert context.working_set()[2] < 1.1 * context.working_set()[1]


def test_without_memory_the_belief_is_the_models_own_word() -> None:
    context = Context(CLASSES, FORGETFUL)
    for index, likelihood in enumerate([word(0, 0.99), word(3, 0.6)]):
        context.learn(1)
        context.advance(index)
        np.testing.assert_allclose(context.observe(likelihood), likelihood)


def test_a_thousand_classes_can_be_sure_and_stay_cheap() -> None:
    classes = 1000
    context = Context(classes)
    likelihood = word(7, 0.9, classes)
    start = time.process_time()
    for index in range(1000):
        context.advance(index)
        context.observe(likelihood)
        context.learn(7)
        assert proper(context.belief)
    # Room for a slow machine; it takes some 50 ms.
    assert time.process_time() - start < 2
    assert risk(context.belief) < 0.005


@pytest.mark.parametrize("field", ["switch", "stranger", "tempering", "floor", "memory"])
def test_constants_that_cannot_be_are_refused_where_they_are_read(field: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({field: -0.5}, ContextParameters)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({field + "s": 0.5}, ContextParameters)
