"""The prior over a request's label from its recent labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.inference.request_prior import RequestPrior

recent = st.lists(st.integers(0, 4), max_size=12)


@given(recent, st.lists(st.tuples(recent, st.integers(0, 4)), max_size=50))
def test_a_prior_sums_to_one_and_excludes_no_label(now: list[int], before: list[tuple[list[int], int]]) -> None:
    mixture = RequestPrior(5)
    for labels, label in before:
        mixture.learn(labels, label)
    prior = mixture.prior(now)
    assert abs(prior.sum() - 1) < 1e-9
    assert (prior >= 0.05 / 5 / 3).all()


def test_without_recent_labels_the_prior_is_uniform() -> None:
    np.testing.assert_allclose(RequestPrior(4).prior([]), 0.25)


def test_the_weight_of_the_last_label_is_learned() -> None:
    stays, never = RequestPrior(4), RequestPrior(4)
    for _ in range(300):
        stays.learn([0, 1, 2], 2)
        never.learn([0, 1, 2], 3)
    assert stays.prior([0, 1, 2])[2] > 0.8
    assert abs(never.prior([0, 1, 2])[2] - 1 / 4) < 0.1, "that recent labels come is no longer expected"


def test_each_device_has_weights_of_its_own() -> None:
    mixture = RequestPrior(4)
    for _ in range(300):
        mixture.learn([0, 1, 2], 2, "dwells")
    assert mixture.prior([0, 1, 2], "dwells")[2] > 0.8
    np.testing.assert_array_equal(mixture.prior([0, 1, 2], "new"), RequestPrior(4).prior([0, 1, 2]))


def test_beyond_the_limit_the_device_updated_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cachenet.shared.inference.request_prior._MAX_DEVICES", 2)
    mixture, fresh = RequestPrior(4), RequestPrior(4).prior([0, 1])
    for device in ("first", "second", "first", "third"):
        mixture.learn([0, 1], 1, device)
    known = [not np.array_equal(mixture.prior([0, 1], device), fresh) for device in ("first", "second", "third")]
    assert known == [True, False, True]
