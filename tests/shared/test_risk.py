"""The risk of an answer: what makes it small, and what does not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.context import Context
from shared.filter import Word
from tests.shared.film import (
    CLASSES,
    PARAMETERS,
    Film,
    Place,
    labels,
    likelihood_of,
    repeat,
)


@given(labels, st.floats(0.5, 0.99), st.floats(0, 0.9), st.floats(0, 0.9))
def test_the_risk_of_repeating_the_full_model_grows_as_the_picture_leaves_what_it_spoke_about(
    said: int, confidence: float, a: float, b: float
) -> None:
    def risk_after(change: float) -> float:
        context, film = Context(CLASSES, PARAMETERS), Film()
        for index in range(30):  # it is known that objects stay
            context.advance(index, film.turn(0.0))
        key = film.turn(1.0)
        context.advance(30, key)
        context.observe(Word(likelihood_of(said, confidence), True, key))
        context.advance(31, film.turn(change))
        return context.belief.risk

    assert risk_after(0.0) < 1.0
    assert risk_after(min(a, b)) <= risk_after(max(a, b)) + 1e-9


def test_a_surer_full_model_is_safer_to_repeat() -> None:
    risks = [repeat([confidence]).belief.risk for confidence in (0.3, 0.6, 0.9, 0.99)]
    assert risks == sorted(risks, reverse=True)
    assert risks[-1] < 0.001
    assert risks[0] > 0.2


def test_the_more_often_the_full_model_has_looked_the_safer_it_is_to_repeat() -> None:
    """What it says next wanders, and the mean of what it has said wanders less."""
    risks = [repeat([0.45, 0.55] * pairs).belief.risk for pairs in (1, 2, 4, 8)]
    assert risks == sorted(risks, reverse=True)
    assert risks[-1] < 0.8 * risks[0]


@given(st.floats(0.3, 0.99), st.integers(1, 20), st.integers(1, 20))
def test_what_the_full_model_was_as_unsure_of_risks_more_where_objects_stay_for_longer(
    confidence: float, one: int, other: int
) -> None:
    """A mistake would be repeated as often: it comes to the root of that."""

    def risk(stays: int) -> tuple[float, float]:
        context = Context(CLASSES, PARAMETERS)
        for index in range(200):
            context.advance(index, Place(100.0 * (index // stays)))
        for index in (200, 201):
            context.advance(index, there := Place(-100.0))
            context.observe(Word(likelihood_of(0, confidence), True, there))
        return context.habits.stay, context.belief.risk

    (short, less), (long, more) = sorted((risk(one), risk(other)))
    assert more == pytest.approx(min(1.0, math.sqrt(long / short) * less))


def test_the_full_model_has_a_verdict_once_it_has_looked_often() -> None:
    """However little the context believes it; and it is gone with the object."""
    context = Context(CLASSES, PARAMETERS)
    for index in range(50):
        context.advance(index, Place(10.0 * index))
        context.observe(Word(likelihood_of(0, 0.99), True, Place(10.0 * index)))
        context.learn(0)
    context.advance(50, there := Place(600.0))
    belief = context.observe(Word(likelihood_of(1, 0.8), True, there))
    assert context.verdict is None, "it has seen the object once"
    assert belief.label == 0
    for index in range(51, 60):
        context.advance(index, there)
        context.observe(Word(likelihood_of(1, 0.8), True, there))
    verdict = context.verdict
    assert verdict is not None
    assert (verdict.label, context.belief.label) == (1, 0)
    assert verdict.risk < 0.5 < context.belief.risk
    assert verdict.posterior[1] < verdict.posterior[0]
    context.advance(60, Place(700.0))
    assert context.verdict is None


def test_a_remembered_word_is_no_second_look() -> None:
    context, key = Context(CLASSES, PARAMETERS), Place(0.0)
    word = Word(likelihood_of(1, 0.6), True, key)
    for index in range(50):
        context.advance(index, key if index == 0 else Place(0.001 * index))
        context.observe(word)
    assert context.habits.wander == PARAMETERS.wander
    context.advance(50, Place(0.05))
    assert context.belief.risk >= repeat([0.6]).belief.risk, "nor does it make surer"


def test_what_the_full_model_said_long_ago_is_asked_about_again_the_sooner_the_less_sure_it_was() -> None:
    """A picture that does not change may show something else by and by."""

    def patience(confidence: float) -> int:
        context, key = Context(CLASSES, PARAMETERS), Place(0.0)
        for index in range(12):
            context.advance(index, key)
            context.observe(Word(likelihood_of(1, confidence), True, key))
        for index in range(12, 5000):
            context.advance(index, key)
            if context.belief.risk > 0.05:
                return index
        return 5000

    assert 12 < patience(0.6) < patience(0.99) < 5000


def test_a_doubtful_belief_about_an_object_that_will_stay_is_worth_a_question() -> None:
    """Where objects stay, a mistake is repeated; where every picture is another thing, it is not."""
    risks = []
    for change in (1.0, 0.01):
        context, film = Context(CLASSES, PARAMETERS), Film()
        for index in range(100):
            context.advance(index, film.turn(change))
        key = film.turn(1.0)
        context.advance(100, key)
        risks.append(context.fuse(Word(likelihood_of(1, 0.995), key=key)).risk)
    assert risks[1] > 10 * risks[0]


def test_to_contradict_what_the_full_model_said_of_this_picture_is_a_great_risk() -> None:
    """However sure the past makes of another label: the full model, asked again, would say what it said."""
    context, film = Context(CLASSES, PARAMETERS), Film()
    for index in range(20):
        key = film.turn(1.0)
        context.advance(index, key)
        context.observe(Word(likelihood_of(2, 0.99), True, key))
        context.learn(2)
    key = film.turn(1.0)
    context.advance(20, key)
    context.observe(Word(likelihood_of(1, 0.5), True, key))
    context.advance(21, key)
    belief = context.fuse(Word(likelihood_of(2, 0.9), key=key))
    assert belief.posterior.argmax() == 2
    assert belief.posterior[2] > 0.8
    assert belief.risk > 0.7
