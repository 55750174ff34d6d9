"""Partitions: likely working sets find a small group that holds them; experts share; what does not pay goes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.models.train import clusters, partitions
from cachenet.models.train.partitions import together

CLASSES = 6


def data(seed: int = 0, each: int = 60) -> tuple[clusters.Array, clusters.Codes]:
    """Embeddings of six labels, two codes each, and the labels."""
    rng = np.random.default_rng(seed)
    answers = np.repeat(np.arange(CLASSES), each)
    kind = answers * 2 + (np.arange(len(answers)) % 2)
    rows = np.eye(12)[kind] + 0.05 * rng.normal(size=(len(answers), 12))
    return rows.astype(np.float32), answers


def grouped(likely: list[partitions.WorkingSet], count: int) -> list[partitions.Partition]:
    rows, answers = data()
    own = clusters.assign(rows, clusters.fit(rows, 12, seed=0))
    return partitions.by_codes(own, answers, CLASSES, likely, count)


def test_each_likely_working_set_finds_the_group_that_holds_it_and_no_more() -> None:
    found = grouped([together([0, 1], CLASSES), together([2, 3, 4], CLASSES)], 8)
    assert {one.labels for one in found} >= {(0, 1), (2, 3, 4)}
    _, answers = data()
    for one in found:
        assert np.array_equal(one.rows, np.isin(answers, one.labels))


def test_where_all_samples_have_one_answer_there_is_no_group() -> None:
    codes, answers = np.arange(40) % 8, np.full(40, 3)
    likely = [partitions.together(labels, 5) for labels in ((0, 1), (2, 4))]
    assert partitions.by_codes(codes, answers, 5, likely, 4) == []


def test_groups_may_overlap() -> None:
    labels = {one.labels for one in grouped([together([0, 1], CLASSES), together([1, 2], CLASSES)], 8)}
    assert {(0, 1), (1, 2)} <= labels


def test_with_room_for_one_the_group_is_that_of_the_likeliest_sets() -> None:
    likely = [together([0, 1], CLASSES)] * 5 + [together([4, 5], CLASSES)]
    assert [one.labels for one in grouped(likely, 1)] == [(0, 1)]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 100), st.integers(2, 5))
def test_experts_share_the_data_and_leave_nothing_out(seed: int, count: int) -> None:
    rows, answers = data(seed)
    parts = partitions.by_experts(rows, answers, CLASSES, count, seed)
    held = np.stack([part.rows for part in parts])
    assert (held.sum(0) == 1).all()
    assert held.sum(1).min() > 0.25 * len(answers) / count, "none collapses"
    assert all(part.labels for part in parts)


@given(st.integers(0, 1000), st.integers(1, 9))
def test_drawn_working_sets_show_only_what_occurs(seed: int, classes: int) -> None:
    answers = np.random.default_rng(seed).integers(0, classes, 50)
    for one in partitions.working_sets(answers, classes + 2, 20, seed):
        assert set(one) <= set(answers.tolist())
        assert len(set(one)) == len(one)
        assert len(one) < max(2, len(set(answers.tolist())))


def test_submodels_that_add_nothing_are_not_kept_and_the_best_comes_first() -> None:
    there = np.full((1, 3), 0.5)
    coverage = np.array([[0.55, 0.5, 0.5], [0.9, 0.5, 0.1], [0.5, 0.5, 0.5], [0.9, 0.5, 0.2]])
    likely = [together([0], 3), together([1], 3), together([2], 3)]
    alike = np.ones(4)
    assert partitions.keep(coverage, there, alike, likely, 0.01, 4) == [1]
    assert partitions.keep(coverage, there, alike, [*likely, together([0, 2], 3)], 0.0001, 4)[0] in (1, 3)
    assert partitions.keep(coverage, there, alike, likely, 0.5, 4) == []
    assert partitions.keep(coverage, there, alike, likely, 0.01, 0) == []
    assert partitions.keep(coverage, there, np.array([1, 10, 1, 10]), likely, 0.02, 4) == [], "dear for their bytes"


def test_small_submodels_do_not_take_the_places_of_those_that_answer_more() -> None:
    likely = [together([label], 12) for label in range(12)]
    large, small = 0.8 * np.eye(12), 0.5 * np.eye(12)
    coverage, there = np.concatenate([small, large]), np.zeros((1, 12))
    kept = partitions.keep(coverage, there, np.array([0.1] * 12 + [0.57] * 12), likely, 0.002, 12)
    assert partitions.answered(coverage[kept], there, likely) == pytest.approx(0.8)


def test_where_nothing_is_asked_of_them_all_are_kept_once() -> None:
    kept = partitions.keep(np.zeros((3, 2)), np.ones((1, 2)), np.ones(3), [together([0], 2)], 0.0, 3)
    assert sorted(kept) == [0, 1, 2]


def test_what_is_answered_is_what_the_best_one_answers_of_each_working_set() -> None:
    there = np.array([[0.5, 0.1]])
    likely = [together([0], 2), together([1], 2)]
    assert partitions.answered(np.zeros((0, 2)), there, likely) == pytest.approx(0.3)
    assert partitions.answered(np.array([[0.4, 0.9], [0.7, 0.0]]), there, likely) == pytest.approx(0.8)


def test_general_models_together_are_no_better_than_the_best_of_them() -> None:
    there, both = np.eye(2), [together([0, 1], 2)]
    assert partitions.answered(np.zeros((0, 2)), there, both) == pytest.approx(0.5)
    assert partitions.keep(np.array([[0.9, 0.9]]), there, np.ones(1), both, 0.1, 1) == [0]
