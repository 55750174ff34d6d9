from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.frame import BLOCKS, Frame, sign
from edge_agent.core.frames import FrameCache
from shared.context import FORGETFUL, Context
from shared.filter import Word
from shared.gate import Posterior
from tests.edge_agent.models import CLASSES, signature

#: Without memory a word is the belief.
CONTEXT = Context(CLASSES, FORGETFUL)


def sure_of(label: int, full: bool = False) -> Word:
    posterior: Posterior = np.eye(CLASSES)[label]
    return Word(posterior, full)


def ask(cache: FrameCache, index: int, brightness: float) -> int | None:
    guess = cache.lookup(Frame(index, None, signature(brightness)), CONTEXT)
    return None if guess is None else guess.label


def teach(cache: FrameCache, index: int, brightness: float, label: int, full: bool = False) -> None:
    name = "full" if full else "model"
    cache.learn(Frame(index, None, signature(brightness)), sure_of(label, full), label, name)


def scene(seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(30, 220, (12, 16, 3), np.uint8)
    return cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC)


def noisy(picture: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 4, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def test_an_unknown_picture_misses_and_a_known_one_hits() -> None:
    cache = FrameCache()
    assert ask(cache, 0, 100) is None
    teach(cache, 0, 100, 2)
    assert ask(cache, 1, 100) == 2
    assert ask(cache, 1, 120) is None


def test_sensor_noise_leaves_a_picture_the_same() -> None:
    cache = FrameCache()
    cache.learn(Frame(0, None, sign(noisy(scene(), 0))), sure_of(1), 1, "model")
    guess = cache.lookup(Frame(1, None, sign(noisy(scene(), 1))), CONTEXT)
    assert guess is not None
    assert (guess.label, guess.model) == (1, "model")


@given(st.integers(0, BLOCKS[0] - 1), st.integers(0, BLOCKS[1] - 1))
def test_a_change_in_any_one_block_makes_another_picture(column: int, row: int) -> None:
    """A person in a corner is not averaged away."""
    cache = FrameCache()
    cache.learn(Frame(0, None, sign(scene())), sure_of(1), 1, "model")
    changed = scene()
    block = changed[row * 40 : row * 40 + 40, column * 40 : column * 40 + 40]
    block[:] = 255 if block.mean() < 128 else 0
    assert cache.lookup(Frame(1, None, sign(changed)), CONTEXT) is None


@pytest.mark.parametrize("shape", [(1, 1, 3), (32, 32, 3), (480, 640, 3), (1080, 1920, 3), (3, 900, 3)])
def test_a_picture_of_any_size_has_a_signature_within_its_brightness(shape: tuple[int, int, int]) -> None:
    made = sign(np.full(shape, 77, np.uint8))
    assert made.blocks.shape == (12, 16)
    assert made.thumbnail.shape == (24, 32)
    assert made.blocks.dtype == made.thumbnail.dtype == np.float32
    np.testing.assert_allclose(made.blocks, 77, atol=1)
    np.testing.assert_allclose(made.thumbnail, 77, atol=1)


@pytest.mark.parametrize(("right", "down"), [(0, 0), (20, 0), (-60, 40), (13, -27)])
def test_an_object_that_moves_changes_a_picture_less_than_another_object(right: int, down: int) -> None:
    large = cv2.resize(scene(), (960, 720))
    middle = sign(large[120:600, 160:800])
    moved = sign(large[120 + down : 600 + down, 160 + right : 800 + right])
    other = sign(cv2.resize(scene(seed=1), (960, 720))[120:600, 160:800])
    assert other.change(middle) > 30
    assert moved.change(middle) < other.change(middle) / 3


@given(st.integers(0, 7), st.integers(0, 5))
def test_what_enters_anywhere_is_not_averaged_away(column: int, row: int) -> None:
    """An object of an eighth of the picture's width and a sixth of its height, in a flat scene."""
    before = np.full((480, 640, 3), 90, np.uint8)
    after = before.copy()
    after[80 * row : 80 * row + 80, 80 * column : 80 * column + 80] = 220
    assert sign(after).change(sign(before)) > 40


def test_sensor_noise_is_next_to_no_change() -> None:
    assert sign(noisy(scene(), 0)).change(sign(noisy(scene(), 1))) < 2
    assert sign(scene()).change(sign(scene())) == 0


def test_what_the_full_model_said_is_not_replaced_by_a_local_model_that_agrees() -> None:
    cache = FrameCache()
    teach(cache, 0, 100, 2, full=True)
    teach(cache, 1, 100, 2)
    guess = cache.lookup(Frame(2, None, signature(100)), CONTEXT)
    assert guess is not None
    assert guess.model == "full"
    teach(cache, 3, 100, 3)
    guess = cache.lookup(Frame(4, None, signature(100)), CONTEXT)
    assert guess is not None
    assert (guess.model, guess.label) == ("model", 3)


def test_what_is_remembered_is_the_word_and_the_context_answers() -> None:
    """So an answer given before the context knew better is not given again."""
    cache, context = FrameCache(), Context(CLASSES)
    hazy = Word(np.array([0.5, 0.4, 0.05, 0.05]), key=signature(100))
    cache.learn(Frame(0, None, signature(100)), hazy, 0, "model")
    for index in range(1, 20):
        context.advance(index, signature(250.0 * (index % 2)))
        context.observe(Word(sure_of(1).likelihood, True, signature(250.0 * (index % 2))))
        context.learn(1)
    context.advance(20, signature(100))
    guess = cache.lookup(Frame(20, None, signature(100)), context)
    assert guess is not None
    assert guess.label == 1


def test_trust_doubles_each_time_an_answer_is_confirmed_up_to_its_bound() -> None:
    cache = FrameCache(longest_trust=8)
    index = 0
    for trust in (1, 2, 4, 8, 8):
        teach(cache, index, 100, 2)
        answered = 0
        while ask(cache, (index := index + 1), 100) is not None:
            answered += 1
        assert answered == trust


def test_a_contradiction_corrects_the_answer_and_lets_it_answer_once() -> None:
    cache = FrameCache()
    for index in range(4):
        teach(cache, index, 100, 2)
    teach(cache, 4, 100, 3)
    assert cache.contradictions == 1
    assert ask(cache, 5, 100) == 3
    assert ask(cache, 6, 100) is None


def test_an_answer_too_old_is_given_no_more_until_it_is_verified_again() -> None:
    cache = FrameCache(oldest=10)
    teach(cache, 0, 100, 2)
    teach(cache, 1, 100, 2)
    assert ask(cache, 11, 100) == 2
    assert ask(cache, 12, 100) is None
    teach(cache, 12, 100, 2)
    assert ask(cache, 13, 100) == 2


def test_what_comes_late_does_not_undo_what_was_learned_since() -> None:
    cache = FrameCache()
    teach(cache, 5, 100, 2)
    teach(cache, 3, 100, 1)
    assert cache.contradictions == 0
    assert ask(cache, 6, 100) == 2


def test_without_a_signature_nothing_is_found_or_kept() -> None:
    cache = FrameCache()
    cache.learn(Frame(0, None, None), sure_of(1), 1, "model")
    assert len(cache) == 0
    assert cache.lookup(Frame(1, None, None), CONTEXT) is None


def test_the_least_recently_used_entry_makes_room() -> None:
    cache = FrameCache(capacity=3)
    for index in range(3):
        teach(cache, index, 50 * index, index)
    assert ask(cache, 3, 0) == 0
    teach(cache, 4, 150, 3)
    assert len(cache) == 3
    # The first entry has spent its one answer, but is still known: confirming it gives it two.
    assert [ask(cache, 5 + i, 50 * i) for i in range(4)] == [None, None, 2, 3]
    teach(cache, 9, 0, 0)
    assert [ask(cache, index, 0) for index in (10, 11, 12)] == [0, 0, None]


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, CLASSES - 1), st.booleans()), max_size=80))
def test_it_never_holds_more_than_its_capacity_and_only_answers_what_it_was_taught(
    steps: list[tuple[int, int, bool]],
) -> None:
    cache = FrameCache(tolerance=5.0, capacity=4)
    taught: list[tuple[int, int]] = []
    for index, (brightness, label, learn) in enumerate(steps):
        said = ask(cache, index, brightness)
        if said is not None:
            assert any(abs(brightness - known) <= 5 and said == answer for known, answer in taught)
        if learn:
            teach(cache, index, brightness, label)
            taught += [(brightness, label)]
            # An entry keeps the picture it was made of, and takes the answer of any near it.
            taught += [(known, label) for known, _ in taught if abs(known - brightness) <= 5]
        assert len(cache) <= 4
