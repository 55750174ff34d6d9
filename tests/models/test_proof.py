"""Whether a submodel is better than what is resident, on frames after those that calibrate both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.models.certify.traces import Labels, Logits
from cachenet.models.train import proof
from cachenet.models.train.proof import BLOCK, Comparison, Side


def answers(right: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Answers of which a share is right and the rest is not given."""
    return (rng.random(count) < right).astype(np.float64)


def model(labels: Labels, right: float, sure: float, rng: np.random.Generator) -> Logits:
    """Logits of a model that is right on a share of the frames, and whose margin is larger there."""
    good = rng.random(len(labels)) < right
    shown = np.where(good, labels, (labels + 1) % 3)
    return (np.eye(3)[shown] * np.where(good, sure, 1.0)[:, None]).astype(np.float32)


def test_a_clear_gain_is_proven_and_its_opposite_is_not() -> None:
    rng = np.random.default_rng(0)
    much, little = answers(0.8, 80, rng), answers(0.2, 80, rng)
    assert proof.compare(much, little).proves()
    assert not proof.compare(little, much).proves()
    assert not proof.compare(little, little).proves()


def test_a_gain_in_four_blocks_proves_nothing_and_in_five_it_does() -> None:
    for blocks, proven in ((4, False), (5, True)):
        assert proof.compare(np.ones(blocks * BLOCK), np.zeros(blocks * BLOCK)).proves() is proven


def test_the_best_of_several_models_needs_a_smaller_p_value() -> None:
    comparison = Comparison(0.5, 5, 0, 0.03)
    assert comparison.proves() and not comparison.proves(tests=2)


def test_a_gain_of_less_than_two_frames_in_a_hundred_proves_nothing() -> None:
    assert not Comparison(0.019, 50, 0, 0.001).proves()


def test_equal_models_are_seldom_proven_better() -> None:
    rng = np.random.default_rng(1)
    found = [proof.compare(answers(0.5, 80, rng), answers(0.5, 80, rng)).proves() for _ in range(200)]
    assert np.mean(found) < 0.09


def test_a_wrong_answer_outweighs_right_ones() -> None:
    labels = np.zeros(3, np.int64)
    logits = np.array([[9, 0, 0], [0, 9, 0], [1, 0, 0]], np.float32)
    assert Side(1.0, 0.05).answers(logits, labels).tolist() == [1.0, -5.0, 0.0]
    assert Side(1.0, -1.0).answers(logits, labels).tolist() == [0.0, 0.0, 0.0]


def test_a_model_answers_where_it_was_right_before() -> None:
    rng = np.random.default_rng(2)
    before, after = rng.integers(0, 3, (2, 200))
    side = proof.calibrate(model(before, 0.6, 3.0, rng), np.eye(3, dtype=np.float32)[before] * 5)
    answered = side.answers(model(after, 0.6, 3.0, rng), after)
    assert (answered == 1).mean() == pytest.approx(0.6, abs=0.1)
    assert not (answered < 0).any()


def test_of_resident_models_the_most_certain_one_answers() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.integers(0, 3, (2, 120))
    full = np.eye(3, dtype=np.float32)[before] * 5
    good = model(before, 1.0, 4.0, rng), model(after, 1.0, 4.0, rng)
    unsure = np.zeros((120, 3), np.float32), np.zeros((120, 3), np.float32)
    alone, both = (proof.most_certain(models, full, after) for models in ([good], [unsure, good]))
    assert (alone == 1).all() and (both == 1).all()


@given(st.lists(st.sampled_from([-5.0, 0.0, 1.0]), min_size=1, max_size=100), st.integers(0, 2**32 - 1))
def test_a_comparison_is_a_p_value_and_the_same_every_time(values: list[float], seed: int) -> None:
    new = np.array(values)
    old = np.random.default_rng(seed).permutation(new)
    first, again = proof.compare(new, old), proof.compare(new, old)
    assert first == again and 0 < first.p <= 1
    assert first.wins + first.losses <= -(-len(values) // BLOCK)
