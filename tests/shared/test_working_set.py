"""The working set: objects that were seen lately."""

from __future__ import annotations

import numpy as np

from shared.context import Context
from shared.filter import Word
from shared.habits import ContextParameters
from tests.shared.film import (
    CLASSES,
    PARAMETERS,
    Film,
    likelihood_of,
)


def test_the_working_set_prefers_what_was_learned_and_forgets_it() -> None:
    context = Context(CLASSES, PARAMETERS)
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
    context, film = Context(CLASSES, PARAMETERS), Film()
    for index, (label, novelty) in enumerate([(1, 1.0), (2, 1.0)] + [(2, 0.0)] * 100):
        key = film.turn(novelty)
        context.advance(index, key)
        context.observe(Word(likelihood_of(label, 0.9), key=key))
        context.learn(label)
    assert context.working_set()[2] < 1.1 * context.working_set()[1]


def test_what_was_confirmed_often_is_remembered_through_an_interruption() -> None:
    context = Context(CLASSES, ContextParameters(memory=300, still=0.0, cut=1.0))
    index = 0
    for label, stay in [(4, 60), (0, 10)]:
        for _ in range(stay):
            context.advance(index)
            context.observe(Word(likelihood_of(label, 0.9)))
            context.learn(label)
            index += 1
    key = Film().turn(1.0)
    context.advance(index, key)
    prior = context.belief.posterior
    assert prior.argmax() == 4
    assert prior[4] > 0.7
    # A glance is now enough, where a newcomer needs a second look.
    assert context.fuse(Word(likelihood_of(4, 0.6), key=key)).risk < 0.05
    assert context.fuse(Word(likelihood_of(1, 0.6), key=key)).posterior[1] < 0.5


def test_strangers_that_nobody_verifies_leave_the_prior_a_prior() -> None:
    """An outage: local words about other labels, frame after frame, and nothing is learned of the set meanwhile."""
    classes = 100
    context, film = Context(classes), Film()
    context.advance(0, film.turn(1.0))
    context.observe(Word(likelihood_of(0, 0.99, classes), True))
    context.learn(0)
    for index in range(1, 600):
        context.advance(index, key := film.turn(1.0))
        context.observe(Word(likelihood_of(index % classes, 0.9, classes), key=key))
    context.learn(1)
    assert 0.0 <= context.habits.stranger <= 1.0
    assert context.working_set().min() >= 0.0
    assert abs(context.working_set().sum() - 1.0) < 1e-9
