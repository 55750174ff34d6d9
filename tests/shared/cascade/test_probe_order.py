"""Which submodels look at a frame: those that are likely to save more than they cost."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cachenet.shared.cascade.model_cache import LocalModel
from cachenet.shared.cascade.probability import Probabilities
from cachenet.shared.cascade.probe_order import ProbeOrder
from tests.shared.cascade.streams import CLASSES, local

LABELS = np.array([0.7, 0.3, 0.0, 0.0])
_MOST = 2


def names(order: ProbeOrder, *models: LocalModel, labels: Probabilities = LABELS) -> list[str]:
    return [probe.model.name for probe in order.plan(models, labels)]


def test_the_two_submodels_with_most_expected_hits_probe_best_first() -> None:
    low, high = local("low", (0.9, 0.9, 0.1, 0.1)), local("high", (0.2, 0.2, 0.9, 0.9))
    some, few = local("some", 0.15), local("few", 0.12)
    assert names(ProbeOrder(), few, some, low, high) == ["low", "high"]
    assert names(ProbeOrder(), few, some, low, high, labels=LABELS[::-1]) == ["high", "some"]
    assert names(ProbeOrder(), few) == ["few"]
    assert names(ProbeOrder()) == []


def test_a_much_faster_submodel_probes_before_one_that_covers_more() -> None:
    assert names(ProbeOrder(), local("slow", 0.9, seconds=0.02), local("fast", 0.6, seconds=0.002)) == ["fast", "slow"]


def test_where_the_cloud_is_faster_submodels_probe_for_exploration_only() -> None:
    order, model = ProbeOrder(), local("special", 0.5, seconds=0.010)
    assert names(order, model) == ["special"], "the cloud's round trip is not known yet"
    order.record_round_trip(0.012)
    looked = [names(order, model) != [] for _ in range(64)]
    assert sum(looked) == 4
    order.record_round_trip(None)
    assert names(order, model) == ["special"], "the cloud is out of reach"


def test_a_second_probe_without_hits_is_taken_for_exploration_only() -> None:
    order, models = ProbeOrder(), (local("first", 0.8, seconds=0.002), local("second", 0.7, seconds=0.002))
    order.record_round_trip(0.030)
    looked = []
    for _ in range(200):
        looked.append(0)
        for probe in order.plan(models, LABELS):
            looked[-1] += 1
            order.record_outcome(probe, False if probe.position else len(looked) % 3 == 0)
    assert looked[0] == 2
    assert looked[-1] == 1
    assert 2 in looked[-32:]


def test_a_round_trip_is_a_running_mean() -> None:
    """One slow answer does not make a look pay that did not pay over all others."""
    order, model = ProbeOrder(), local("special", 0.5, seconds=0.010)
    for _ in range(50):
        order.record_round_trip(0.010)
    order.record_round_trip(0.030)
    assert names(order, model) == []
    for _ in range(50):
        order.record_round_trip(0.030)
    assert names(order, model) == ["special"]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.1)), max_size=6),
    st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=30),
)
def test_at_most_two_different_submodels_probe(models: list[tuple[float, float]], waits: list[float | None]) -> None:
    several = [local(str(place), coverage, seconds=seconds) for place, (coverage, seconds) in enumerate(models)]
    order, labels = ProbeOrder(), np.full(CLASSES, 1 / CLASSES)
    for wait in waits:
        order.record_round_trip(wait)
        probed = []
        for probe in order.plan(several, labels):
            probed.append(probe.model.name)
            order.record_outcome(probe, len(probed) % 2 == 0)
        assert len(set(probed)) == len(probed) <= _MOST
        if wait is None:
            assert len(probed) == min(_MOST, len(models))
