"""The hierarchy: which level answers a frame, what is asked, and who learns of what is said."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.audits import Audits
from edge_agent.core.hierarchy import Hierarchy, Rules
from edge_agent.core.types import Answer, Ask, Hit, Reply
from shared.context import FORGETFUL, Context
from shared.protocol import RECENT
from shared.reference import WINDOW
from tests.edge_agent.hierarchies import SURE, UNSURE, build, frame, learned
from tests.edge_agent.models import CLASSES, local, logits

#: The margin of a word that just misses being a hit.
_NEARLY = 3.7


@dataclass(frozen=True)
class Event:
    """One frame of a made-up stream, what becomes of its question, and a reply that may come late before it."""

    label: int
    margin: float
    brightness: int
    reply: Literal["answer", "here", "none"]
    full_label: int
    late: int | None


events = st.lists(
    st.builds(
        Event,
        st.integers(0, CLASSES - 1),
        st.sampled_from([0.0, 0.3, 2.0, 6.0, 12.0]),
        st.integers(0, 5).map(lambda step: 40 * step),
        st.sampled_from(["answer", "here", "none"]),
        st.integers(0, CLASSES - 1),
        st.none() | st.integers(1, 80),
    ),
    max_size=120,
)


def play(hierarchy: Hierarchy, stream: list[Event]) -> list[Answer]:
    """Drive the hierarchy as a shell does, and check what must hold at every step."""
    answers = []
    for index, event in enumerate(stream):
        if event.late is not None and event.late <= index:
            hierarchy.late(Reply(index - event.late, logits(event.full_label, 8.0)), float(index))
        shown = frame(index, logits(event.label, event.margin), event.brightness)
        step = hierarchy.look(shown, float(index))
        before = learned(hierarchy)
        if isinstance(step, Ask) and event.reply != "none":
            here = event.reply == "here"
            answer = hierarchy.settle(step, Reply(index, logits(event.full_label, 8.0), here=here), float(index))
            assert answer.level == ("full" if here else "cloud")
            assert not answer.hit
            assert answer.bare == event.full_label
        else:
            answer = hierarchy.settle(step, None, float(index), "late")
            if isinstance(step, Ask):
                assert answer.level == "fallback"
                assert learned(hierarchy) == before, "nothing is learned from a fallback"
            else:
                assert answer.level == step.level
                assert step.guess.belief.risk <= hierarchy.rules.threshold
                assert answer.reason == ""
        assert answer.frame == index
        assert 0 <= answer.label < CLASSES
        answers.append(answer)
        tally = hierarchy.tally
        assert sum(tally.levels().values()) == tally.frames == index + 1
        assert tally.corrections <= tally.late <= tally.fallbacks
        assert len(hierarchy._asked) <= 64
        assert len(hierarchy._recent) <= RECENT
    return answers


@given(events, st.booleans())
def test_hits_and_cloud_and_fallbacks_are_the_frames_and_fallbacks_teach_nothing(
    stream: list[Event], memory: bool
) -> None:
    play(build(parameters=None if memory else FORGETFUL), stream)


@given(events)
def test_the_same_input_gives_the_same_answers(stream: list[Event]) -> None:
    assert play(build(), stream) == play(build(), stream)


def test_what_the_full_model_said_and_is_remembered_is_no_local_guess() -> None:
    """Two pictures in turns, a cut between them: what an audit learns of local models must not come from that."""
    hierarchy = build(audits=Audits(0.01, 0.5, 1.0, lambda: 0.0))
    guesses = []
    assert hierarchy.audits is not None
    note = hierarchy.audits.note
    hierarchy.audits.note = lambda *given: guesses.append(given[3]) or note(*given)  # type: ignore[method-assign, func-returns-value]
    levels = []
    for index in range(8):
        shown = frame(index, logits(index % 2, UNSURE), brightness=20.0 + 200.0 * (index % 2))
        step = hierarchy.look(shown, float(index))
        reply = Reply(index, logits(index % 2, SURE)) if isinstance(step, Ask) else None
        levels.append(hierarchy.settle(step, reply, float(index)).level)
    assert levels[-1] == "frames"
    assert guesses[-1] is None
    assert guesses[0] is not None


def test_the_threshold_decides_between_hit_and_miss() -> None:
    """Without context the risk is what the model says, so the threshold can be put right beside it."""
    word = frame(0, logits(1, 3.0))
    risk = build(0.0, FORGETFUL).look(word, 0.0)
    assert isinstance(risk, Ask)
    for threshold, hit in ((risk.best.belief.risk * 1.001, True), (risk.best.belief.risk * 0.999, False)):
        step = build(threshold, FORGETFUL).look(word, 0.0)
        assert isinstance(step, Hit) == hit


def test_a_question_carries_deadline_best_guess_and_recent_labels() -> None:
    hierarchy = build()
    for index, label in enumerate((1, 1, 2, 3)):
        step = hierarchy.look(frame(index, logits(label, UNSURE)), float(index))
        assert isinstance(step, Ask)
        hierarchy.settle(step, Reply(index, logits(label, SURE)), float(index))
    step = hierarchy.look(frame(4, logits(0, UNSURE)), 10.0)
    assert isinstance(step, Ask)
    assert step.recent == (1, 2, 3), "an object that stays is one thing seen"
    assert step.deadline == 10.25
    assert step.best.model == "base"
    assert step.best.belief.risk > hierarchy.rules.threshold


def test_the_least_risky_guess_is_the_fallback() -> None:
    hierarchy = build()
    hierarchy.install(local("special", 0.9))
    step = hierarchy.look(frame(0, {"special": logits(1, 0.2), "base": logits(2, 1.0)}), 0.0)
    assert isinstance(step, Ask)
    answer = hierarchy.settle(step, None, 0.0, "no answer in time")
    assert (answer.level, answer.model, answer.label) == ("fallback", "base", 2)
    assert answer.reason.endswith("; no answer in time")


def test_a_look_that_a_later_one_doubted_is_not_held_against_local_models() -> None:
    """Nor for them: where two looked, the frame was asked about because of the last."""

    def trust(special: float, base: float) -> float:
        hierarchy = build()
        hierarchy.install(local("special", 0.9))
        shown = frame(0, {"special": logits(1, special), "base": logits(2, base)})
        step = hierarchy.look(shown, 0.0)
        assert isinstance(step, Ask)
        assert (step.best.model, step.last.model) == ("special" if special > base else "base", "base")
        hierarchy.settle(step, Reply(0, logits(3, SURE)), 0.0)
        return hierarchy.context.habits.trust

    assert trust(special=_NEARLY, base=0.3) == 1.0
    assert trust(special=0.3, base=_NEARLY) < 1.0


def test_a_submodel_that_is_sure_spares_the_base_model() -> None:
    hierarchy = build()
    hierarchy.install(local("special", 0.9))
    step = hierarchy.look(frame(0, {"special": logits(1, SURE)}), 0.0)  # asking the base would raise KeyError
    assert isinstance(step, Hit)
    assert (step.level, step.guess.model) == ("submodels", "special")


def test_no_model_is_run_on_an_object_of_which_the_full_model_was_unsure() -> None:
    """It could not help; the frame is asked about again, and what is believed already is the fallback."""
    hierarchy = build()
    hierarchy.settle(hierarchy.look(frame(0, logits(1, UNSURE), 100), 0.0), Reply(0, logits(3, 0.5)), 0.0)
    step = hierarchy.look(frame(1, {}, 100), 1.0)  # asking any model would raise KeyError
    assert isinstance(step, Ask)
    answer = hierarchy.settle(step, None, 1.0)
    assert (answer.level, answer.label) == ("fallback", 3)


def test_an_object_on_which_the_full_model_insists_is_not_asked_about_for_ever() -> None:
    """Twelve objects of one label have made the context sure of it. The next is another, and the full model says so."""
    hierarchy = build()
    for index in range(12):
        step = hierarchy.look(frame(index, logits(0, UNSURE)), float(index))
        hierarchy.settle(step, Reply(index, logits(0, SURE)), float(index))
    answers = []
    for index in range(12, 52):
        step = hierarchy.look(frame(index, logits(0, UNSURE), brightness=250.0), float(index))
        answers.append(hierarchy.settle(step, Reply(index, logits(1, 3.0)), float(index)))
    assert {(answer.level, answer.label) for answer in answers[:6]} == {("cloud", 0)}, "the context may doubt"
    assert {answer.label for answer in answers[10:]} == {1}
    assert sum(answer.level == "frames" for answer in answers) >= 20
    assert all(answer.confidence < 0.5 for answer in answers[10:]), "the context's doubt is still told"


def test_a_false_hit_that_an_audit_finds_is_corrected_and_makes_the_gate_stricter() -> None:
    """The base model is sure of a mistake, and its guesses are hits. Nobody is asked but the audits."""
    hierarchy = build(audits=Audits(0.01, 0.5, 1.0, lambda: 0.0))
    assert hierarchy.frames is not None
    assert hierarchy.audits is not None
    index = 0
    while hierarchy.audits.windows == 0:
        step = hierarchy.look(frame(index, logits(0, SURE), brightness=90.0), float(index))
        assert isinstance(step, Hit)
        answer = hierarchy.settle(step, None, float(index))
        assert answer.label == 0
        if answer.audit:
            hierarchy.audited(Reply(index, logits(2, SURE)), float(index))
        index += 1
    assert sum(hierarchy.audits.false.values()) == WINDOW
    assert hierarchy.threshold < hierarchy.rules.threshold
    entry = hierarchy.frames._entries[0]
    assert (entry.label, entry.model) == (2, "full")
    assert hierarchy.context.belief.label == 2


def test_a_hierarchy_without_local_levels_asks_and_falls_back_on_what_it_expects() -> None:
    hierarchy = Hierarchy(Rules(0.0, 0.25, "full", 1.0, 0.05), Context(CLASSES))
    for index in range(5):
        step = hierarchy.look(frame(index, None), 0.0)
        assert isinstance(step, Ask)
        hierarchy.settle(step, Reply(index, logits(2, 6.0)), 0.0)
    step = hierarchy.look(frame(5, None), 0.0)
    answer = hierarchy.settle(step, None, 0.0)
    assert (answer.level, answer.model, answer.label) == ("fallback", "context", 2)


def test_a_hit_of_the_frame_cache_only_advances_time() -> None:
    hierarchy = build()
    hierarchy.settle(hierarchy.look(frame(0, logits(1, SURE), 100), 0.0), None, 0.0)
    before = hierarchy.context.working_set().copy(), list(hierarchy._recent)
    step = hierarchy.look(frame(1, logits(3, SURE), 100), 0.0)
    belief = hierarchy.context.belief.posterior.copy()
    answer = hierarchy.settle(step, None, 0.0)
    assert (answer.level, answer.label) == ("frames", 1)
    np.testing.assert_allclose(hierarchy.context.belief.posterior, belief)
    np.testing.assert_array_equal(hierarchy.context.working_set(), before[0])
    assert list(hierarchy._recent) == before[1]


def test_the_clouds_word_teaches_all_that_learns() -> None:
    hierarchy = build()
    hierarchy.settle(hierarchy.look(frame(0, logits(1, UNSURE), 100), 0.0), Reply(0, logits(3, SURE), "special"), 0.0)
    assert hierarchy.context.working_set().argmax() == 3
    assert list(hierarchy._recent) == [3]
    assert hierarchy.wanted == "special"
    answer = hierarchy.settle(hierarchy.look(frame(1, logits(1, UNSURE), 100), 0.0), None, 0.0)
    assert (answer.level, answer.label, answer.model) == ("frames", 3, "full")


def test_where_the_cloud_answers_before_a_local_model_would_it_is_asked_at_once() -> None:
    """Until it is out of reach: then the best local guess is wanted again."""
    hierarchy = Hierarchy(
        Rules(0.0, 0.25, "full", 1.0, 0.05), Context(CLASSES), None, None, local("base", seconds=0.1, level="base")
    )

    def looked(index: int, reply: bool) -> bool:
        step = hierarchy.look(frame(index, logits(1, UNSURE)), float(index))
        assert isinstance(step, Ask)
        hierarchy.settle(step, Reply(index, logits(1, SURE)) if reply else None, index + 0.01)
        return step.best.model == "base"

    assert [looked(index, True) for index in range(8)] == [True] + [False] * 7
    assert not looked(8, False)
    assert looked(9, False)


def test_no_picture_is_kept_once_its_frame_has_ended() -> None:
    class Picture(dict[str, npt.NDArray[np.float32]]):
        pass

    hierarchy = build()
    kept = []
    for index in range(10):
        picture = Picture(base=logits(index % CLASSES, (UNSURE, SURE)[index % 2]))
        kept.append(weakref.ref(picture))
        step = hierarchy.look(frame(index, picture), 0.0)
        hierarchy.settle(step, None if index % 3 else Reply(index, logits(1, SURE)), 0.0)
    del picture, step
    gc.collect()
    assert [ref() for ref in kept] == [None] * 10


def test_a_cut_lets_go_of_what_was_believed_and_a_still_picture_holds_on() -> None:
    hierarchy = build(threshold=-1.0)
    hierarchy.frames = None
    hierarchy.settle(hierarchy.look(frame(0, logits(1, UNSURE), 100), 0.0), Reply(0, logits(1, SURE)), 0.0)
    hierarchy.look(frame(1, logits(0, 0.0), 100), 0.0)
    assert hierarchy.context.belief.posterior[1] > 0.9
    hierarchy.look(frame(2, logits(0, 0.0), 250), 0.0)
    assert hierarchy.context.belief.posterior[1] == pytest.approx(hierarchy.context.working_set()[1])


def test_a_full_model_that_is_unsure_is_not_asked_twice_about_one_picture() -> None:
    """Nor as it drifts a little; it is asked again when the picture has become another."""
    hierarchy = build(threshold=0.05)
    hierarchy.frames = None
    unsure = logits(1, 3.0)
    asked = []
    for index, brightness in enumerate([0.0, 0.0, 0.4, 0.8, 90.0]):
        step = hierarchy.look(frame(index, logits(2, UNSURE), brightness), float(index))
        asked.append(isinstance(step, Ask))
        answer = hierarchy.settle(step, Reply(index, unsure) if asked[-1] else None, float(index))
        assert answer.label == 1
        if index < 4:
            assert answer.confidence < 0.95, "what is reported stays honest about how unsure everybody is"
    assert asked == [True, False, False, False, True]


def test_what_a_cache_between_layers_answers_claims_of_the_same_allowance_as_hits() -> None:
    """Device and server share one budget: the more the server risks, the surer a hit must be."""

    def after(risk: float) -> float:
        hierarchy = Hierarchy(Rules(0.01, 0.25, "full", 1.0), Context(CLASSES), base=local("base", level="base"))
        for index in range(100):
            step = hierarchy.look(frame(index, logits(index % CLASSES, 0.0)), float(index))
            assert isinstance(step, Ask)
            assert 0 < step.risk < 0.01, "it may not take all that hits may claim"
            hierarchy.settle(step, Reply(index, logits(index % CLASSES, 8.0), risk=risk), float(index))
        return hierarchy.threshold

    assert after(0.1) < after(0.01) < after(0.0)
