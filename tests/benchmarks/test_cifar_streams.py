"""The CIFAR-10 streams: the comparison of two rules at equal disagreement."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import cifar_streams
from cachenet.models.data import streams


def row(disagreement: float, local: float) -> dict[str, Any]:
    return {"disagreement": {"mean": disagreement}, "local_share": {"mean": local}}


def test_the_share_at_equal_disagreement_lies_between_the_two_nearest_budgets() -> None:
    curve = [row(0.01, 0.5), row(0.03, 0.7), row(0.02, 0.4)]  # the first beats the last
    before = [{"disagreement": 0.02, "local_share": 0.65}, {"disagreement": 0.05, "local_share": 0.9}]
    [near, far] = cifar_streams.compared(curve, before)
    assert near["local_share"] == pytest.approx(0.6) and near["difference"] == pytest.approx(-0.05)
    assert far["local_share"] == 0.7, "the cascade answers no more than at its largest budget"


def test_without_a_budget_of_so_little_disagreement_there_is_no_comparison() -> None:
    [only] = cifar_streams.compared([row(0.02, 0.5)], [{"disagreement": 0.01, "local_share": 0.4}])
    assert only["local_share"] is None and only["difference"] is None


def test_every_stream_has_measures_of_the_earlier_rule() -> None:
    before = json.loads(cifar_streams._BEFORE.read_text())
    assert set(before) == set(streams.NAMES)
    assert all(
        set(point) == {"claim", "local_share", "disagreement", "bare"} for own in before.values() for point in own
    )
