"""What a request's recent labels say of its picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.inference.request_prior import Expectation

recent = st.lists(st.integers(0, 4), max_size=12)


@given(recent, st.lists(st.tuples(recent, st.integers(0, 4)), max_size=50))
def test_a_prior_is_one_and_never_rules_anything_out(now: list[int], before: list[tuple[list[int], int]]) -> None:
    expectation = Expectation(5)
    for seen, label in before:
        expectation.learn(seen, label)
    prior = expectation.prior(now)
    assert abs(prior.sum() - 1) < 1e-9
    assert (prior >= 0.05 / 5 / 3).all()


def test_without_recent_labels_all_are_alike() -> None:
    np.testing.assert_allclose(Expectation(4).prior([]), 0.25)


def test_it_learns_whether_the_last_label_stays() -> None:
    stays, never = Expectation(4), Expectation(4)
    for _ in range(300):
        stays.learn([0, 1, 2], 2)
        never.learn([0, 1, 2], 3)
    assert stays.prior([0, 1, 2])[2] > 0.8
    assert abs(never.prior([0, 1, 2])[2] - 1 / 4) < 0.1, "that recent labels come is no longer expected"


def test_what_one_device_shows_is_not_expected_of_another() -> None:
    expectation = Expectation(4)
    for _ in range(300):
        expectation.learn([0, 1, 2], 2, "dwells")
    assert expectation.prior([0, 1, 2], "dwells")[2] > 0.8
    np.testing.assert_array_equal(expectation.prior([0, 1, 2], "new"), Expectation(4).prior([0, 1, 2]))


def test_of_too_many_devices_the_one_not_heard_of_for_longest_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cachenet.shared.inference.request_prior._DEVICES", 2)
    expectation, fresh = Expectation(4), Expectation(4).prior([0, 1])
    for device in ("first", "second", "first", "third"):
        expectation.learn([0, 1], 1, device)
    known = [not np.array_equal(expectation.prior([0, 1], device), fresh) for device in ("first", "second", "third")]
    assert known == [True, False, True]
