"""The context: what must hold whatever it hears, and words that come late."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.context import FORGETFUL, Context, Memoryless
from shared.filter import Word
from shared.gate import Posterior, entropy
from shared.habits import ContextParameters
from tests.shared.film import (
    CLASSES,
    PARAMETERS,
    Film,
    assert_same,
    changes,
    labels,
    likelihood_of,
    likelihoods,
    novelties,
    proper,
)


@given(st.lists(st.tuples(novelties, st.none() | likelihoods(), st.booleans(), st.none() | labels), max_size=90))
def test_the_belief_is_always_a_probability_and_never_certain(
    frames: list[tuple[float | None, Posterior | None, bool, int | None]],
) -> None:
    context, film = Context(CLASSES, PARAMETERS), Film()
    for index, (novelty, likelihood, full, verified) in enumerate(frames):
        key = film.turn(novelty)
        context.advance(index, key)
        assert proper(context.belief.posterior)
        if likelihood is not None:
            assert proper(context.observe(Word(likelihood, full, key)).posterior)
        if verified is not None:
            context.learn(verified)
        assert proper(context.working_set())
        assert proper(context.belief.posterior)
        assert -1e-9 <= context.belief.risk <= 1 + 1e-9


@given(
    st.builds(
        ContextParameters,
        switch=st.floats(0, 1),
        stranger=st.floats(0, 1),
        memory=st.floats(1, 1e6),
        tempering=st.floats(0, 1),
        floor=st.floats(0, 1),
        still=st.floats(0, 3),
        cut=st.floats(0, 3),
        wander=st.floats(0, 10),
        candour=st.floats(0.1, 1.0),
    ),
    st.lists(st.tuples(novelties, likelihoods(), st.booleans()), max_size=20),
)
def test_no_parameters_break_it(
    parameters: ContextParameters, frames: list[tuple[float | None, Posterior, bool]]
) -> None:
    context, film = Context(CLASSES, parameters), Film()
    for index, (novelty, likelihood, full) in enumerate(frames):
        key = film.turn(novelty)
        context.advance(index, key)
        belief = context.observe(Word(likelihood, full, key))
        context.learn(int(belief.posterior.argmax()))
        assert abs(belief.posterior.sum() - 1) < 1e-9
        assert belief.posterior.min() >= 0
        assert -1e-9 <= belief.risk <= 1 + 1e-9


@given(st.lists(st.tuples(novelties, likelihoods()), min_size=1, max_size=10), likelihoods(), st.booleans())
def test_fusing_changes_nothing(frames: list[tuple[float | None, Posterior]], trial: Posterior, full: bool) -> None:
    context, undisturbed, film = Context(CLASSES, PARAMETERS), Context(CLASSES, PARAMETERS), Film()
    for index, (novelty, likelihood) in enumerate(frames):
        key = film.turn(novelty)
        context.advance(index, key)
        undisturbed.advance(index, key)
        given_copy = trial.copy()
        context.fuse(Word(trial, full, key))
        assert np.array_equal(trial, given_copy)
        heard = context.observe(Word(likelihood, key=key)), undisturbed.observe(Word(likelihood, key=key))
        assert np.array_equal(heard[0].posterior, heard[1].posterior)
        assert heard[0].risk == heard[1].risk


@given(novelties, likelihoods(), likelihoods())
def test_a_frame_has_one_evidence_and_the_last_word_is_it(
    novelty: float | None, first: Posterior, second: Posterior
) -> None:
    twice, once = Context(CLASSES, PARAMETERS), Context(CLASSES, PARAMETERS)
    key = Film().turn(novelty)
    for context in (twice, once):
        context.advance(0, key)
    twice.observe(Word(first, key=key))
    assert np.array_equal(twice.observe(Word(second, key=key)).posterior, once.observe(Word(second, key=key)).posterior)


@given(st.lists(st.tuples(changes, st.none() | likelihoods()), min_size=1, max_size=40), likelihoods(), st.data())
def test_a_late_word_counts_as_if_it_had_come_in_time(
    frames: list[tuple[float, Posterior | None]], late: Posterior, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(frames) - 1))
    in_time, revised, film = Context(CLASSES, PARAMETERS), Context(CLASSES, PARAMETERS), Film()
    for context in (in_time, revised):
        context.learn(1)
    for index, (novelty, likelihood) in enumerate(frames):
        key = film.turn(novelty)
        word = None if likelihood is None else Word(likelihood, key=key)
        if index == place:
            correction = Word(late, True, key)
        for context in (in_time, revised):
            context.advance(index, key)
            heard = word
            if context is in_time and index == place:
                heard = correction
                if word is not None:
                    context.fuse(word)  # what a local model had said first
            if heard is not None:
                context.observe(heard)
    assert revised.revise(place, correction)
    assert_same(revised.belief, in_time.belief)
    # And it goes on the same, so what the ring remembers was put right too.
    key = film.turn(0.5)
    for context in (in_time, revised):
        context.advance(len(frames), key)
    assert_same(revised.fuse(Word(late, key=key)), in_time.fuse(Word(late, key=key)))
    assert revised.revise(place, correction)
    assert_same(revised.belief, in_time.belief)


def test_a_word_too_late_for_the_ring_changes_nothing() -> None:
    context = Context(CLASSES, PARAMETERS, ring=4)
    for index in range(10):
        context.advance(index)
        context.observe(Word(likelihood_of(0, 0.9)))
    before = context.belief.posterior.copy()
    late = Word(likelihood_of(1, 0.99), True)
    assert not context.revise(5, late)
    assert not context.revise(99, late)
    assert np.array_equal(context.belief.posterior, before)
    assert context.revise(6, late)


def test_agreeing_frames_make_sure_and_one_contradiction_does_not_overturn() -> None:
    context = Context(CLASSES, PARAMETERS)
    risks = []
    for index in range(5):
        context.advance(index)
        risks.append(context.observe(Word(likelihood_of(1, 0.8))).risk)
    assert risks == sorted(risks, reverse=True)
    assert risks[-1] < 0.01
    context.advance(5)
    assert context.observe(Word(likelihood_of(2, 0.8))).posterior.argmax() == 1
    context.advance(6)
    context.observe(Word(likelihood_of(2, 0.8)))
    context.advance(7)
    assert context.observe(Word(likelihood_of(2, 0.99))).posterior.argmax() == 2


@given(st.booleans(), st.booleans())
def test_without_memory_the_belief_is_the_models_own_word(told_apart: bool, same: bool) -> None:
    """Whatever the pictures are, even one and the same."""
    context, film = Context(CLASSES, FORGETFUL), Film()
    for index, likelihood in enumerate([likelihood_of(0, 0.99), likelihood_of(3, 0.6)]):
        context.learn(1)
        key = film.turn(0.0 if same else 1.0) if told_apart else None
        context.advance(index, key)
        np.testing.assert_allclose(context.observe(Word(likelihood, key=key)).posterior, likelihood)


def test_a_thousand_classes_can_be_sure_and_stay_cheap() -> None:
    classes = 1000
    context = Context(classes)
    word = Word(likelihood_of(7, 0.9, classes))
    start = time.process_time()
    for index in range(1000):
        context.advance(index)
        context.observe(word)
        context.learn(7)
        assert proper(context.belief.posterior)
    # Room for a slow machine; it takes some 50 ms.
    assert time.process_time() - start < 2
    assert context.belief.risk < 0.005


@given(likelihoods(), likelihoods())
def test_the_papers_rule_remembers_nothing_and_its_risk_is_the_words_entropy(
    first: Posterior, second: Posterior
) -> None:
    context = Memoryless(CLASSES)
    for index, likelihood in enumerate((first, second)):
        context.advance(index)
        belief = context.observe(Word(likelihood))
        context.learn(belief.label)
        assert likelihood[belief.label] == pytest.approx(likelihood.max())
        assert belief.risk == pytest.approx(entropy(np.maximum(likelihood, 1e-6)), abs=1e-3)
