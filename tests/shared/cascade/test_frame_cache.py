"""Answers of the full model that are held: a bounded set, in which the newest and the nearest are found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.frame_cache import CAPACITY, FrameCache
from tests.shared.cascade.streams import frame, grey, noisy, scenery, signature

CLASSES = 3


def held(cache: FrameCache) -> set[tuple[int, int]]:
    return {(int(index), int(label)) for index, label in zip(cache.indices, cache.labels, strict=True)}


@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.integers(0, 10), st.integers(0, CLASSES - 1), st.booleans()), max_size=40
    ),
    st.integers(1, 8),
)
def test_it_is_bounded_and_its_tables_stay_together(steps: list[tuple[int, int, int, bool]], capacity: int) -> None:
    """Whatever comes, in whatever order: no more entries than its capacity, each as it was put in, the newest among
    them."""
    cache, put = FrameCache(CLASSES, capacity), set()
    for index, brightness, label, looked in steps:
        output = np.eye(CLASSES)[label] if looked else None
        cache.add(frame(index, picture=grey(20.0 * brightness)), label, output)
        put.add((index, label, brightness))
        assert 1 <= len(cache) <= capacity
        rows = {len(table) for table in (cache.labels, cache.indices, cache.probabilities)}
        assert rows == {len(cache)}
        assert cache.indices[cache.last] == max(old for old, _, _ in put)
        for row in range(len(cache)):
            at = {b for i, own, b in put if (i, own) == (int(cache.indices[row]), int(cache.labels[row]))}
            assert any(cache.distances(grey(20.0 * b))[row] < 1.0 for b in at)
            assert np.isnan(cache.probabilities[row]).all() or cache.probabilities[row].sum() == 1.0


def test_the_oldest_entry_is_replaced() -> None:
    cache = FrameCache(CLASSES, capacity=3)
    for index in range(5):
        cache.add(frame(index, picture=grey(50.0 * index)), 0, None)
    assert held(cache) == {(2, 0), (3, 0), (4, 0)}


def test_the_same_picture_with_the_same_label_is_replaced() -> None:
    cache = FrameCache(CLASSES)
    for index in range(2 * CAPACITY):
        cache.add(frame(index, picture=signature(noisy(scenery(), index))), 1, None)
    assert held(cache) == {(2 * CAPACITY - 1, 1)}


def test_a_newer_answer_replaces_that_of_the_same_picture() -> None:
    cache = FrameCache(CLASSES)
    for index, label in enumerate((1, 2, 1)):
        cache.add(frame(index), label, None)
        assert held(cache) == {(index, label)}


@given(st.lists(st.integers(0, 12), min_size=1, max_size=20, unique=True), st.floats(0, 255))
def test_the_nearest_is_the_one_that_looks_most_alike(levels: list[int], level: float) -> None:
    cache = FrameCache(1, capacity=20)
    for index, one in enumerate(levels):
        cache.add(frame(index, picture=grey(20.0 * one)), 0, None)
    squares = [(20.0 * one - level) ** 2 for one in levels]
    np.testing.assert_allclose(cache.distances(grey(level)), squares, rtol=1e-3, atol=0.25)


def test_the_same_picture_has_distance_zero_at_any_brightness() -> None:
    """But for rounding, far under the noise of a sensor."""
    levels = 4.2 * np.arange(60) + np.random.default_rng(1).uniform(0.0, 1.0, 60)
    cache = FrameCache(1)
    for index, level in enumerate(levels):
        cache.add(frame(index, picture=grey(level)), 0, None)
    assert max(float(cache.distances(grey(level)).min()) for level in levels) < 0.1


def test_a_late_answer_to_an_older_frame_is_not_the_newest() -> None:
    cache = FrameCache(CLASSES)
    cache.add(frame(5, picture=grey(50.0)), 1, None)
    cache.add(frame(2, picture=grey(150.0)), 0, None)
    assert cache.labels[cache.last] == 1
    assert held(cache) == {(5, 1), (2, 0)}


def test_a_late_answer_does_not_replace_a_newer_one_of_the_same_picture() -> None:
    cache = FrameCache(CLASSES)
    cache.add(frame(4, picture=grey(200.0)), 0, None)
    cache.add(frame(6, picture=grey(50.0)), 1, None)
    cache.add(frame(3, picture=grey(50.0)), 1, None)
    assert held(cache) == {(4, 0), (6, 1)}
    assert cache.labels[cache.last] == 1


def test_a_late_answer_older_than_all_entries_is_not_added() -> None:
    cache = FrameCache(CLASSES, capacity=2)
    cache.add(frame(5, picture=grey(50.0)), 1, None)
    cache.add(frame(6, picture=grey(100.0)), 1, None)
    cache.add(frame(2, picture=grey(200.0)), 0, None)
    assert held(cache) == {(5, 1), (6, 1)}


def test_recent_rows_are_the_newest_before_a_frame() -> None:
    cache = FrameCache(CLASSES)
    for index in (3, 9, 1, 7):
        cache.add(frame(index, picture=grey(25.0 * index)), 0, None)
    assert cache.indices[cache.recent(2, before=9)].tolist() == [7, 3]
    assert cache.indices[cache.recent(9, before=100)].tolist() == [9, 7, 3, 1]
    assert cache.recent(3, before=1).tolist() == []


def test_a_cleared_cache_is_empty() -> None:
    cache = FrameCache(CLASSES)
    cache.add(frame(0), 1, None)
    cache.clear()
    assert len(cache) == 0
    with pytest.raises(ValueError):
        assert cache.last
    with pytest.raises(ValueError):
        _ = cache.last
