"""What counts as another look, and when an object is let go."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.context import Context
from shared.filter import Word
from shared.gate import Posterior
from tests.shared.film import (
    CLASSES,
    PARAMETERS,
    Film,
    Place,
    assert_same,
    labels,
    likelihood_of,
    likelihoods,
)


@given(labels, st.floats(0.25, 0.9999), st.integers(1, 400), st.booleans())
@settings(max_examples=50)
def test_looking_often_at_one_picture_is_looking_once(label: int, confidence: float, frames: int, full: bool) -> None:
    """A model cannot talk itself into its own mistake: what it says of an unchanged picture counts once."""
    key = Film().turn(1.0)
    mistaken = Word(likelihood_of(label, confidence), full, key)
    often, once = Context(CLASSES, PARAMETERS), Context(CLASSES, PARAMETERS)
    for context, looks in ((often, frames), (once, 1)):
        for index in range(looks):
            context.advance(index, key)
            context.observe(mistaken)
    # Only the floor, which keeps every label alive, is put in again; it makes less sure, never surer.
    assert often.belief.posterior.max() <= once.belief.posterior.max() + 1e-12


def test_a_slow_change_adds_up_to_a_new_look() -> None:
    """What counts is how far the picture is from the one that was spoken about, not from the one before."""
    slowly, at_once = Context(CLASSES, PARAMETERS), Context(CLASSES, PARAMETERS)
    film, first = Film(), Film().turn(1.0)
    for context in (slowly, at_once):
        context.advance(0, first)
        context.observe(Word(likelihood_of(0, 0.7), key=first))
    assert film.turn(1.0) == first
    for index in range(1, 60):
        slowly.advance(index, key := film.turn(0.1))
    at_once.advance(1, first)
    fused = slowly.fuse(Word(likelihood_of(1, 0.9), key=key)), at_once.fuse(Word(likelihood_of(1, 0.9), key=first))
    assert fused[0].posterior.max() > fused[1].posterior.max()
    assert fused[0].posterior.argmax() == 1


def test_a_picture_that_comes_back_was_not_forgotten_as_heard() -> None:
    """Trembling adds nothing up: a camera that shakes shows the same object again and again."""
    context, here, there = Context(CLASSES, PARAMETERS), Place(0.0), Place(0.2)
    context.advance(0, here)
    belief = context.observe(Word(likelihood_of(0, 0.7), key=here)).posterior
    for index in range(1, 50):
        context.advance(index, there if index % 2 else here)
    context.advance(50, here)
    assert context.fuse(Word(likelihood_of(0, 0.7), key=here)).posterior[0] < belief[0] + 0.01


def test_the_full_models_word_takes_the_place_of_local_ones() -> None:
    """As if they had never spoken of this object; and while it is in sight they have nothing to add."""
    context, never, key = Context(CLASSES, PARAMETERS), Context(CLASSES, PARAMETERS), Film().turn(1.0)
    for index in range(5):
        context.advance(index, key)
        never.advance(index, key)
        assert context.observe(Word(likelihood_of(0, 0.9), key=key)).posterior.argmax() == 0
    for each in (context, never):
        each.advance(5, key)
        each.observe(Word(likelihood_of(1, 0.6), True, key))
        each.advance(6, key)
    assert_same(context.belief, never.belief)
    contradicted = context.observe(Word(likelihood_of(0, 0.99), key=key))
    np.testing.assert_allclose(contradicted.posterior, never.belief.posterior, atol=1e-12)
    assert contradicted.risk == pytest.approx(never.belief.risk, abs=0.002), "it may be another object, a little"


@given(st.lists(likelihoods(), min_size=1, max_size=12), st.randoms())
def test_looks_at_one_object_count_as_their_mean_in_whatever_order(
    looks: list[Posterior], order: random.Random
) -> None:
    """So the first impression of an object does not outweigh those that follow."""
    shuffled = looks.copy()
    order.shuffle(shuffled)
    beliefs = []
    for several in (looks, shuffled):
        context, key = Context(CLASSES, PARAMETERS), Place(0.0)
        for index, likelihood in enumerate(several):
            context.advance(index, key)
            context.observe(Word(likelihood, True, key))
        beliefs.append(context.belief.posterior)
    np.testing.assert_allclose(beliefs[0], beliefs[1], atol=1e-6)


def test_an_unchanged_picture_keeps_its_label() -> None:
    context, key = Context(CLASSES, PARAMETERS), Film().turn(1.0)
    context.advance(0, key)
    belief = context.observe(Word(likelihood_of(2, 0.95), key=key)).posterior.copy()
    for index in range(1, 500):
        context.advance(index, key)
    np.testing.assert_allclose(context.belief.posterior, belief)


@given(st.lists(likelihoods(), max_size=30))
def test_a_cut_lets_go(before: list[Posterior]) -> None:
    context, film = Context(CLASSES, PARAMETERS), Film()
    context.learn(3)
    for index, likelihood in enumerate(before):
        key = film.turn(0.0)
        context.advance(index, key)
        context.observe(Word(likelihood, True, key))
    context.advance(len(before), film.turn(1.0))
    np.testing.assert_allclose(context.belief.posterior, context.working_set(), atol=1e-12)


@given(st.floats(0, 1), st.floats(0, 1))
def test_more_novelty_never_holds_on_harder(a: float, b: float) -> None:
    def hold(novelty: float) -> float:
        context, film = Context(CLASSES, PARAMETERS), Film()
        key = film.turn(1.0)
        context.advance(0, key)
        context.observe(Word(likelihood_of(0, 0.99), key=key))
        context.advance(1, film.turn(novelty))
        return float(context.belief.posterior[0])

    assert hold(min(a, b)) >= hold(max(a, b)) - 1e-6
