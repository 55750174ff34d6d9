"""Habits: what a stream shows of itself, and what outcomes make of doubts."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.context import Context, Guessed
from shared.filter import Word
from shared.habits import ContextParameters, Exponent, Habits
from tests.shared.film import (
    CLASSES,
    PARAMETERS,
    Place,
    likelihood_of,
    repeat,
)

DOUBTS = [0.003, 0.01, 0.03, 0.09]


def outcomes(power: float, count: int = 4000, seed: int = 0) -> list[tuple[float, bool]]:
    """Doubts, and whether they turned out wrong, which they do with this power of themselves."""
    rng = random.Random(seed)
    return [(doubt, rng.random() < doubt**power) for doubt in (rng.choice(DOUBTS) for _ in range(count))]


@pytest.mark.parametrize("power", [0.3, 0.5, 0.75])
def test_the_power_with_which_doubts_turn_out_wrong_is_found(power: float) -> None:
    habits = Habits(ContextParameters(candour=0.75))
    for doubt, wrong in outcomes(power):
        habits.audited(doubt, wrong)
    for doubt in DOUBTS:
        assert habits.errs(doubt) == pytest.approx(doubt**power, rel=0.5)


def alone(doubt: float) -> float:
    """How much a word backs a label where nothing else does: of two labels, one is left in such doubt by it."""
    return -doubt * math.log(doubt)


def test_doubts_that_are_more_honest_than_the_bundles_are_taken_as_the_bundles() -> None:
    habits = Habits(ContextParameters(candour=0.75))
    for doubt, wrong in outcomes(1.0):
        habits.audited(doubt, wrong)
    assert habits.errs(0.01) == pytest.approx(0.01**0.75, rel=0.3)


def test_trust_falls_where_guesses_err_more_than_their_doubt_should_and_comes_back() -> None:
    habits = Habits(ContextParameters(candour=0.75))
    for doubt, wrong in outcomes(0.5, 300):
        habits.guessed(doubt, wrong, alone(doubt))
    fallen = habits.trust
    assert fallen < 0.8
    for doubt, wrong in outcomes(1.0, 2000):
        habits.guessed(doubt, wrong, alone(doubt))
    assert habits.trust > 1.2 * fallen


def test_what_the_context_got_wrong_is_not_laid_to_the_model_that_it_overruled() -> None:
    habits = Habits(ContextParameters(candour=0.75))
    for doubt, wrong in outcomes(0.5, 300):
        habits.guessed(doubt, wrong, alone(doubt))
    fallen = habits.trust
    for doubt, wrong in outcomes(0.5, 300):
        habits.guessed(doubt, wrong, -alone(doubt))
    assert habits.trust > fallen


def test_wander_is_the_same_whatever_number_of_looks_it_is_told_by() -> None:
    """Where looks err independently, with a standard deviation of 1: two of them are 1.41 apart."""
    for looks in (1, 2, 16):
        rng, habits = random.Random(looks), Habits(ContextParameters(wander=0.5))
        for _ in range(2000):
            mean = sum(rng.gauss(0.0, 1.0) for _ in range(looks)) / looks
            habits.wandered(rng.gauss(0.0, 1.0) - mean, looks)
        assert habits.wander == pytest.approx(2**0.5, rel=0.2)


def test_one_outcome_does_not_turn_everything_over() -> None:
    habits = Habits(ContextParameters(candour=0.75))
    habits.audited(0.003, True)
    habits.guessed(0.003, True, alone(0.003))
    assert habits.errs(0.003) < 0.003**0.6
    assert habits.trust > 0.8


def test_a_doubt_that_is_the_floors_tells_nothing_and_neither_does_a_toss_of_a_coin() -> None:
    parameters = ContextParameters(floor=1e-3)
    habits = Habits(parameters)
    for doubt in (0.0, 0.0009, 0.3, 1.0):
        habits.guessed(doubt, 1.0, 1.0)
        habits.audited(doubt, wrong=True)
    assert (habits.trust, habits.errs(0.01)) == (1.0, 0.01**parameters.candour)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1e-6, 0.999), st.floats(-20, -1e-3)), max_size=50))
def test_an_exponent_stays_within_its_limits_whatever_comes(outcomes: list[tuple[float, float, float]]) -> None:
    exponent = Exponent(0.8)
    for wrong, expected, slope in outcomes:
        exponent.learn(wrong, expected, slope)
        assert 0.0 < exponent.value <= 0.8


def test_how_far_the_full_model_wanders_is_learned_from_its_second_looks() -> None:
    """Where it says the same every time it may be repeated even if it is unsure; where not, hardly ever."""
    steady, restless = repeat([0.5] * 100), repeat([0.1, 0.6] * 50)
    assert steady.habits.wander < 0.5 < PARAMETERS.wander < restless.habits.wander
    assert steady.belief.risk < 0.01
    assert restless.belief.risk > 0.1


@pytest.mark.parametrize(("switch", "least", "most"), [(0.02, 0.0, 0.1), (1.0, 0.6, 1.0)])
def test_how_often_objects_change_is_learned_where_no_pictures_tell(switch: float, least: float, most: float) -> None:
    rng = random.Random(1)
    context, label = Context(CLASSES), 0
    for index in range(600):
        label = rng.choice([0, 1, 2]) if rng.random() < switch else label
        context.advance(index)
        context.observe(Word(likelihood_of(label, 0.9), True))
        context.learn(label)
    assert least <= context.habits.switch <= most


def test_a_picture_that_changes_while_the_object_stays_is_relied_on_the_more() -> None:
    """Trees in the wind are not new objects; where the full model says something else each time, they are."""

    def watch(labels: list[int]) -> float:
        context = Context(CLASSES, PARAMETERS)
        for label in range(CLASSES):
            context.learn(label)
        for index, label in enumerate(labels):
            context.advance(index, key := Place(0.8 * (index % 2)))
            context.observe(Word(likelihood_of(label, 0.97), True, key))
        return context.habits.newness

    assert watch([1] * 40) < 0.5
    assert watch([1, 2] * 20) > 1.0


def test_how_many_strangers_come_is_learned() -> None:
    """Where everything comes equally often, that a label was seen says little of the next."""

    def prefers(labels: list[int]) -> float:
        context = Context(CLASSES)
        for index, label in enumerate(labels):
            context.advance(index, key := Place(100.0 * index))
            context.observe(Word(likelihood_of(label, 0.9), True, key))
            context.learn(label)
        return context.habits.stranger

    rng = random.Random(1)
    assert prefers([rng.randrange(2) for _ in range(400)]) < 0.03 < ContextParameters().stranger
    assert prefers([rng.randrange(CLASSES) for _ in range(400)]) > 0.1


def test_local_models_that_err_more_often_than_they_doubt_are_trusted_less() -> None:
    trusts = []
    for wrong in (0, 1):
        context = Context(CLASSES, PARAMETERS)
        for index in range(100):
            context.advance(index, key := Place(10.0 * index))
            guess = Word(likelihood_of(index % CLASSES, 0.97), key=key)
            truth = Word(likelihood_of((index + wrong * (index % 2)) % CLASSES, 0.999), True, key)
            context.observe(truth, Guessed(guess, context.fuse(guess)))
        trusts.append(context.habits.trust)
    assert trusts[0] == 1.0
    assert trusts[1] < 0.7


@pytest.mark.parametrize(
    "field", ["switch", "stranger", "tempering", "floor", "memory", "still", "cut", "wander", "candour"]
)
def test_constants_that_cannot_be_are_refused_where_they_are_read(field: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({field: -0.5}, ContextParameters)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({field + "s": 0.5}, ContextParameters)


def test_a_night_in_which_nothing_happens_is_no_evidence() -> None:
    """A month of an unchanged picture, and then one object comes: what was learned of strangers stands."""
    habits = Habits(ContextParameters(stranger=0.05))
    for _ in range(100_000):
        habits.met(0.0, 0.0)
        habits.renewed(0.0, 0.0)
    habits.met(1.0, 1.0)
    assert habits.stranger < 0.2


def test_after_a_quiet_time_one_outcome_does_not_turn_everything_over() -> None:
    habits = Habits(ContextParameters(candour=0.75, floor=0.0))
    for _ in range(10_000):
        habits.audited(2e-6, wrong=False)
    habits.audited(2e-6, wrong=True)
    assert habits.errs(0.01) < 0.01**0.5
