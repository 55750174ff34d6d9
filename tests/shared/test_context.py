"""The filter over labels: what must hold whatever it hears, and what it is for."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.context import FORGETFUL, Context, Memoryless
from shared.filter import Word
from shared.gate import Posterior, entropy
from shared.habits import ContextParameters
from shared.risk import Belief

CLASSES = 5
PARAMETERS = ContextParameters(still=0.0, cut=1.0)

changes = st.floats(0, 1) | st.sampled_from([0.0, 1.0])
novelties = st.none() | changes
labels = st.integers(0, CLASSES - 1)


@st.composite
def likelihoods(draw: st.DrawFn) -> Posterior:
    """From flat to one-hot, zeros and denormals included."""
    weights = np.array(draw(st.lists(st.floats(0, 1), min_size=CLASSES, max_size=CLASSES)))
    weights[draw(labels)] = 1.0
    likelihood: Posterior = weights / weights.sum()
    return likelihood


@dataclass(frozen=True)
class Place:
    """A picture that is a point on a line."""

    at: float

    def change(self, before: Place) -> float:
        return abs(self.at - before.at)


class Film:
    """A line of pictures, each as far from the one before as told: 0 the same, 1 another scene."""

    def __init__(self) -> None:
        self._at = 0.0

    def turn(self, change: float | None) -> Place | None:
        if change is None:
            return None
        self._at += 2.0 if change == 1.0 else change
        return Place(self._at)


def likelihood_of(label: int, confidence: float, classes: int = CLASSES) -> Posterior:
    """What a model says that is this sure of one label and knows nothing of the others."""
    likelihood = np.full(classes, (1 - confidence) / (classes - 1))
    likelihood[label] = confidence
    return likelihood


def proper(belief: Posterior, parameters: ContextParameters = PARAMETERS) -> bool:
    least = parameters.floor / len(belief) / (1 + parameters.floor)
    return bool(abs(belief.sum() - 1) < 1e-9 and belief.min() >= least * (1 - 1e-9))


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


def assert_same(a: Belief, b: Belief) -> None:
    np.testing.assert_allclose(a.posterior, b.posterior, atol=1e-12)
    assert a.risk == pytest.approx(b.risk, abs=1e-12)


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


@given(labels, st.floats(0.3, 0.99), st.floats(0, 0.9), st.floats(0, 0.9))
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

    assert risk_after(0.0) < 0.5
    assert risk_after(min(a, b)) <= risk_after(max(a, b)) + 1e-9


def repeat(confidences: list[float]) -> Context:
    """A context that has heard the full model say the same of one object, this surely."""
    context, key = Context(CLASSES, PARAMETERS), Place(0.0)
    for index, confidence in enumerate(confidences):
        key = Place(0.001 * index)
        context.advance(index, key)
        context.observe(Word(likelihood_of(1, confidence), True, key))
    context.advance(len(confidences), key)
    return context


def test_a_surer_full_model_is_safer_to_repeat() -> None:
    risks = [repeat([confidence]).belief.risk for confidence in (0.3, 0.6, 0.9, 0.99)]
    assert risks == sorted(risks, reverse=True)
    assert risks[-1] < 0.001
    assert risks[0] > 0.2


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
            context.fuse(Word(likelihood_of(index % CLASSES, 0.97), key=key))
            context.observe(Word(likelihood_of((index + wrong * (index % 2)) % CLASSES, 0.999), True, key))
        trusts.append(context.habits.trust)
    assert trusts[0] == 1.0
    assert trusts[1] < 0.7


def test_the_more_often_the_full_model_has_looked_the_safer_it_is_to_repeat() -> None:
    """What it says next wanders, and the mean of what it has said wanders less."""
    risks = [repeat([0.45, 0.55] * pairs).belief.risk for pairs in (1, 2, 4, 8)]
    assert risks == sorted(risks, reverse=True)
    assert risks[-1] < 0.8 * risks[0]


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


@pytest.mark.parametrize(
    "field", ["switch", "stranger", "tempering", "floor", "memory", "still", "cut", "wander", "candour"]
)
def test_constants_that_cannot_be_are_refused_where_they_are_read(field: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({field: -0.5}, ContextParameters)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({field + "s": 0.5}, ContextParameters)


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
