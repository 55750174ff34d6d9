"""Audits: what they cost, what they find, and what they make of it."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.audits import Audits
from edge_agent.core.frame import Frame
from edge_agent.core.types import Answer, LevelName, Reply
from shared.betting import Bound, Detector
from shared.habits import ContextParameters
from shared.reference import WINDOW
from shared.risk import Belief
from tests.edge_agent.models import logits

PARAMETERS = ContextParameters()


def audits(budget: float = 0.5, allowed: float = 0.01) -> Audits:
    """Draws a window as soon as it can pay for one."""
    return Audits(allowed, budget, 1.0, lambda: 0.0)


def answer(index: int, label: int = 0, level: LevelName = "base") -> Answer:
    return Answer(index, label, 0.9, 0.01, level, "base")


def window(some: Audits, label: int, full: int, first: int) -> int:
    """Run until a window has been judged, every frame answered so and the full model saying that; the next frame."""
    index = first
    while True:
        frame = Frame(index, None)
        if some.note(frame, answer(index, label), None):
            some.hear(Reply(index, logits(full, 8.0)))
        index += 1
        if some.finding(PARAMETERS) is not None:
            return index


@given(
    st.floats(0.001, 0.5),
    st.lists(st.sampled_from(["base", "frames", "cloud", "fallback"]), max_size=400),
    st.booleans(),
)
def test_no_more_frames_are_sent_than_the_budget_allows(budget: float, levels: list[LevelName], false: bool) -> None:
    """At any time, whatever is found, and only hits: what the cloud answered it has judged already."""
    some = audits(budget)
    for index, level in enumerate(levels):
        reply = Reply(index, logits(0, 8.0)) if level == "cloud" else None
        sent = some.note(Frame(index, None), answer(index, int(false), level), reply)
        assert not sent or level in ("base", "frames")
        if sent:
            some.hear(Reply(index, logits(0, 8.0)))
        some.finding(PARAMETERS)
        assert some.sent <= budget * (index + 1) + 1e-9


def test_windows_begin_at_random_and_half_of_the_budget_is_saved() -> None:
    rng = random.Random(0)
    some = Audits(0.01, 0.02, 1.0, rng.random)
    begun = []
    for index in range(200_000):
        if some.note(Frame(index, None), answer(index), None):
            begun.append(index)
            some.hear(Reply(index, logits(0, 8.0)))
        some.finding(PARAMETERS)
    assert 0.008 < len(begun) / 200_000 < 0.012
    assert len({index % WINDOW for index in begun[::WINDOW]}) == WINDOW


def test_where_local_models_are_trusted_less_what_was_saved_is_spent() -> None:
    def begun(trust: float) -> int:
        some = Audits(0.01, 0.02, 1.0, random.Random(0).random)
        for index in range(10_000):
            some.note(Frame(index, None), answer(index), None, None, 1.0 if index < 8000 else trust)
            if index == 8000:
                before = some.sent
        return some.sent - before

    assert begun(0.5) > 2 * begun(1.0)


def test_a_finding_has_the_guesses_that_the_full_model_had_no_part_in() -> None:
    some, belief = audits(), Belief(np.array([0.9, 0.1]), 0, 0.05)
    found = None
    for index in range(100):
        guess = belief if index % 2 else None
        if some.note(Frame(index, None), answer(index), None, guess):
            some.hear(Reply(index, logits(0, 8.0)))
        if (found := some.finding(PARAMETERS)) is not None:
            break
    assert found is not None
    assert [frame.index % 2 == 1 for frame in found.frames] == [guess is belief for guess in found.guesses]


def test_false_hits_are_told_by_what_the_full_model_leads_to() -> None:
    some = audits()
    index = window(some, label=1, full=1, first=0)
    assert (some.windows, some.rate) == (1, 0.0)
    window(some, label=1, full=2, first=index)
    assert some.false == {"base": WINDOW}
    assert some.rate == 0.5


def test_what_the_cloud_answered_counts_without_being_sent() -> None:
    some = audits()
    found = None
    for index in range(100):
        said = Reply(index, logits(1, 8.0))
        if some.note(Frame(index, None), answer(index, 1, "cloud"), said):
            raise AssertionError("there is nothing to send")
        found = found or some.finding(PARAMETERS)
    assert found is not None
    assert found.false == []
    assert some.sent == 0


def test_a_window_with_a_fallback_or_a_lost_answer_says_nothing() -> None:
    some = audits()
    for index in range(400):
        level: LevelName = "fallback" if index % 10 == 0 else "base"
        if some.note(Frame(index, None), answer(index, level=level), None):
            some.hear(Reply(index, logits(1, 8.0)))
        assert some.finding(PARAMETERS) is None
    for index in range(400, 4000):
        if some.note(Frame(index, None), answer(index), None) and index % 7:
            some.hear(Reply(index, logits(1, 8.0)))
        assert some.finding(PARAMETERS) is None
    assert some.windows == 0


def test_a_fallback_whose_answer_comes_late_is_part_of_a_window_and_no_hit() -> None:
    some = audits()
    found = None
    for index in range(200):
        level: LevelName = "fallback" if index % 3 == 0 else "base"
        sent = some.note(Frame(index, None), answer(index, 1, level), None)
        assert sent <= (level == "base")
        some.hear(Reply(index, logits(2, 8.0)))
        found = found or some.finding(PARAMETERS)
    assert found is not None
    assert {found.answers[place].level for place in found.false} == {"base"}
    assert 8 < len(found.false) < WINDOW


def test_windows_drawn_in_doubt_certify_nothing() -> None:
    """They are judged under a gate that is stricter than the one that would be certified."""
    some = audits()
    index = window(some, label=1, full=2, first=0)
    before = some.bound
    while some.doubtful:
        index = window(some, label=1, full=1, first=index)
    assert some.bound == before


def test_one_bad_window_makes_the_gate_stricter_for_now_and_several_for_good() -> None:
    some = audits()
    index = window(some, label=1, full=2, first=0)
    assert some.doubtful
    assert some.factor < 1
    once = some.factor
    while not some.alarms:
        index = window(some, label=1, full=2, first=index)
    assert not some.doubtful
    assert some.factor <= once
    for _ in range(20):
        index = window(some, label=1, full=1, first=index)
    assert some.factor <= once, "good windows do not undo it; that takes a certificate"


def test_doubt_passes_when_the_next_windows_are_good() -> None:
    some = audits()
    index = window(some, label=1, full=2, first=0)
    seen = 0
    while some.doubtful:
        index = window(some, label=1, full=1, first=index)
        seen += 1
        assert seen < 200
    assert some.factor == 1.0


def test_a_certificate_makes_the_gate_looser_but_not_for_ever() -> None:
    some = audits(allowed=0.1)
    index, factors = 0, set()
    for _ in range(200):
        index = window(some, label=1, full=1, first=index)
        factors.add(some.factor)
    assert factors == {1.0, 2.0, 4.0}


def shares(rng: np.random.Generator, mean: float) -> float:
    """What windows show where an object in ten is misjudged for its whole stay, more or less."""
    return float(rng.random() < 10 * mean) * float(rng.choice([0.05, 0.15]))


@pytest.mark.parametrize("mean", [0.002, 0.01, 0.05])
def test_the_bound_holds_at_all_times_with_its_confidence(mean: float) -> None:
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(200):
        bound, least = Bound(), 1.0
        for _ in range(300):
            bound.add(shares(rng, mean))
            least = min(least, bound.value)
        broken += least < mean
    assert broken <= 16, "5 % of 200, and two standard deviations"


def test_the_bound_closes_in() -> None:
    rng = np.random.default_rng(0)
    bound = Bound()
    for _ in range(3000):
        bound.add(shares(rng, 0.01))
    assert 0.01 <= bound.value < 0.02


def test_false_alarms_are_rare_and_a_broken_promise_is_noticed() -> None:
    rng = np.random.default_rng(0)
    quiet, loud = [], []
    for mean, waits in ((0.01, quiet), (0.1, loud)):
        for _ in range(100):
            detector, windows = Detector(0.01), 0
            while detector.evidence < 100 and windows < 1000:
                detector.add(shares(rng, mean))
                windows += 1
            waits.append(windows)
    assert np.mean(quiet) > 100
    assert np.mean(loud) < 25


def test_what_is_forgotten_is_no_evidence_any_more() -> None:
    some, new = Detector(0.01), Detector(0.01)
    for _ in range(4):
        some.add(1.0)
    assert some.evidence > new.evidence
    some.forget()
    assert some.evidence == new.evidence
    some.add(0.5), new.add(0.5)
    assert some.evidence == new.evidence


def test_what_a_cache_between_layers_answered_is_checked_like_what_was_answered_here() -> None:
    """It is sent to the whole model, for its own word is no reference; and is false where that says otherwise."""
    some = audits()
    index, judged = 0, None
    while judged is None:
        cut = Reply(index, logits(1, 8.0), risk=0.0)
        if some.note(Frame(index, None), answer(index, 1, "cloud"), cut):
            some.hear(Reply(index, logits(0, 8.0)))
        index += 1
        judged = some.finding(PARAMETERS)
    assert set(judged.labels) == {0} and len(judged.false) == 16
    assert some.false == {"cloud": 16}
