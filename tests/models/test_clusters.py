"""Clusters: embeddings of nearly the same direction get one cluster."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.models.train import clusters


def directions(seed: int, count: int = 4, each: int = 50) -> tuple[clusters.Array, clusters.Labels]:
    """Embeddings of random length around ``count`` directions, and the number of the direction."""
    rng = np.random.default_rng(seed)
    middle = np.linalg.qr(rng.normal(size=(8, 8)))[0][:count]
    truth = np.repeat(np.arange(count), each)
    rows = (middle[truth] + 0.1 * rng.normal(size=(len(truth), 8))) * rng.uniform(0.1, 9, (len(truth), 1))
    return rows.astype(np.float32), truth


def test_embeddings_of_similar_direction_share_a_cluster_regardless_of_length() -> None:
    rows, truth = directions(0)
    found = clusters.assign(rows, clusters.fit(rows, 4, seed=0))
    assert len({(a, b) for a, b in zip(found.tolist(), truth.tolist(), strict=True)}) == 4


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_centres_have_length_one_and_each_row_is_assigned_to_the_nearest(seed: int, count: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(60, 5)).astype(np.float32)
    centres = clusters.fit(rows, count, seed)
    assert len(centres) == count
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
    cosine = clusters.unit(rows) @ centres.T
    assert np.array_equal(clusters.assign(rows, centres), cosine.argmax(1))
    assert np.array_equal(centres, clusters.fit(rows, count, seed))


def test_fewer_distinct_rows_give_fewer_clusters() -> None:
    rows = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    assert len(clusters.fit(rows, 10, seed=0)) == 3


def test_a_zero_row_is_accepted() -> None:
    rows, _ = directions(1)
    rows[7] = 0
    assert np.isfinite(clusters.fit(rows, 4, seed=0)).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_no_worse_than_its_initial_centres(seed: int) -> None:
    rows, _ = directions(seed, count=6)
    unit = clusters.unit(rows)
    initial = clusters._initial_centres(unit, 6, np.random.default_rng(seed))
    assert (unit @ clusters.fit(rows, 6, seed).T).max(1).sum() >= (unit @ initial.T).max(1).sum() - 1e-3
