"""Partitions: working sets get small groups that contain them, and submodels that add too little are not selected."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.models.train import clusters, partitions
from cachenet.models.train.partitions import mean_coverage, select_submodels, uniform_working_set

CLASSES = 6


def data(seed: int = 0, each: int = 60) -> tuple[clusters.Array, clusters.Labels]:
    """Embeddings of six labels with two clusters each, and the labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), each)
    cluster = labels * 2 + (np.arange(len(labels)) % 2)
    rows = np.eye(12)[cluster] + 0.05 * rng.normal(size=(len(labels), 12))
    return rows.astype(np.float32), labels


def grouped(likely: list[partitions.WorkingSet], count: int) -> list[partitions.Partition]:
    rows, labels = data()
    own = clusters.assign(rows, clusters.fit(rows, 12, seed=0))
    return partitions.group_clusters(own, labels, CLASSES, likely, count)


def test_each_likely_working_set_gets_a_group_of_exactly_its_labels() -> None:
    found = grouped([uniform_working_set([0, 1], CLASSES), uniform_working_set([2, 3, 4], CLASSES)], 8)
    assert {part.labels for part in found} >= {(0, 1), (2, 3, 4)}
    _, labels = data()
    for part in found:
        assert np.array_equal(part.rows, np.isin(labels, part.labels))


def test_frames_of_a_single_label_give_no_group() -> None:
    own, labels = np.arange(40) % 8, np.full(40, 3)
    likely = [uniform_working_set(one, 5) for one in ((0, 1), (2, 4))]
    assert partitions.group_clusters(own, labels, 5, likely, 4) == []


def test_groups_may_overlap() -> None:
    found = grouped([uniform_working_set([0, 1], CLASSES), uniform_working_set([1, 2], CLASSES)], 8)
    assert {(0, 1), (1, 2)} <= {part.labels for part in found}


def test_a_single_group_is_that_of_the_most_frequent_working_set() -> None:
    likely = [uniform_working_set([0, 1], CLASSES)] * 5 + [uniform_working_set([4, 5], CLASSES)]
    assert [part.labels for part in grouped(likely, 1)] == [(0, 1)]


@given(st.integers(0, 1000), st.integers(1, 9))
def test_drawn_working_sets_hold_only_labels_that_occur(seed: int, classes: int) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, 50)
    for drawn in partitions.draw_working_sets(labels, classes + 2, 20, seed):
        assert set(drawn) <= set(labels.tolist())
        assert len(set(drawn)) == len(drawn)
        assert len(drawn) < max(2, len(set(labels.tolist())))


def test_submodels_that_add_nothing_are_not_selected_and_the_best_is_first() -> None:
    general = np.full((1, 3), 0.5)
    coverage = np.array([[0.55, 0.5, 0.5], [0.9, 0.5, 0.1], [0.5, 0.5, 0.5], [0.9, 0.5, 0.2]])
    likely = [uniform_working_set([0], 3), uniform_working_set([1], 3), uniform_working_set([2], 3)]
    equal = np.ones(4)
    assert select_submodels(coverage, general, equal, likely, 0.01, 4) == [1]
    assert select_submodels(coverage, general, equal, [*likely, uniform_working_set([0, 2], 3)], 0.0001, 4)[0] in (1, 3)
    assert select_submodels(coverage, general, equal, likely, 0.5, 4) == []
    assert select_submodels(coverage, general, equal, likely, 0.01, 0) == []
    assert select_submodels(coverage, general, np.array([1, 10, 1, 10]), likely, 0.02, 4) == [], "too many bytes"


def test_small_submodels_do_not_displace_those_that_answer_more() -> None:
    likely = [uniform_working_set([label], 12) for label in range(12)]
    large, small = 0.8 * np.eye(12), 0.5 * np.eye(12)
    coverage, general = np.concatenate([small, large]), np.zeros((1, 12))
    chosen = select_submodels(coverage, general, np.array([0.1] * 12 + [0.57] * 12), likely, 0.002, 12)
    assert mean_coverage(coverage[chosen], general, likely) == pytest.approx(0.8)


def test_without_a_minimum_gain_every_submodel_is_selected_once() -> None:
    chosen = select_submodels(np.zeros((3, 2)), np.ones((1, 2)), np.ones(3), [uniform_working_set([0], 2)], 0.0, 3)
    assert sorted(chosen) == [0, 1, 2]


def test_mean_coverage_takes_the_best_model_of_each_working_set() -> None:
    general = np.array([[0.5, 0.1]])
    likely = [uniform_working_set([0], 2), uniform_working_set([1], 2)]
    assert mean_coverage(np.zeros((0, 2)), general, likely) == pytest.approx(0.3)
    assert mean_coverage(np.array([[0.4, 0.9], [0.7, 0.0]]), general, likely) == pytest.approx(0.8)


def test_general_models_count_as_the_best_single_one_not_together() -> None:
    general, both = np.eye(2), [uniform_working_set([0, 1], 2)]
    assert mean_coverage(np.zeros((0, 2)), general, both) == pytest.approx(0.5)
    assert select_submodels(np.array([[0.9, 0.9]]), general, np.ones(1), both, 0.1, 1) == [0]
