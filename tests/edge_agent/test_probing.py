"""Which models look at a frame: those that are likely to save more than they cost."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.core.probing import Probing
from tests.edge_agent.models import CLASSES, local

LABELS = np.array([0.7, 0.3, 0.0, 0.0])


def names(probing: Probing, *models: object, labels: np.ndarray = LABELS) -> list[str]:
    return [probe.model.name for probe in probing.plan(models, labels)]  # type: ignore[arg-type]


def test_the_ones_that_cover_what_is_expected_best_look_first_and_no_more_than_a_gate_was_proven_with() -> None:
    low, high = local("low", (0.9, 0.9, 0.1, 0.1)), local("high", (0.2, 0.2, 0.9, 0.9))
    some, few = local("some", 0.15), local("few", 0.12)
    assert names(Probing(), few, some, low, high) == ["low", "high", "some"]
    assert names(Probing(), few, some, low, high, labels=LABELS[::-1]) == ["high", "some", "few"]
    assert names(Probing(), few) == ["few"]
    assert names(Probing()) == []


def test_a_model_that_is_much_faster_looks_before_one_that_covers_more() -> None:
    assert names(Probing(), local("slow", 0.9, seconds=0.02), local("fast", 0.6, seconds=0.002)) == ["fast", "slow"]


def test_cheap_models_that_know_the_same_do_not_keep_the_one_that_knows_more_from_looking() -> None:
    """After the first, which is the one that is worth its time most, come those that know the most."""
    cheap = [local(f"cheap{number}", 0.6 - number / 100, seconds=0.001) for number in range(4)]
    assert names(Probing(), *cheap, local("able", 0.9, seconds=0.010)) == ["cheap0", "cheap1", "able"]


def test_where_the_cloud_answers_sooner_than_a_model_nobody_looks() -> None:
    """But now and then somebody does, or it would never be known that it pays again."""
    probing, model = Probing(), local("base", 0.5, seconds=0.010)
    assert names(probing, model) == ["base"], "nobody knows the cloud yet"
    probing.waited(0.012)
    looked = [names(probing, model) != [] for _ in range(64)]
    assert sum(looked) == 4
    probing.waited(None)
    assert names(probing, model) == ["base"], "it is out of reach now"


def test_a_second_model_that_never_knows_more_than_the_first_is_not_asked_any_longer() -> None:
    probing, models = Probing(), (local("first", 0.8, seconds=0.002), local("second", 0.7, seconds=0.002))
    probing.waited(0.030)
    looked = []
    for _ in range(200):
        looked.append(0)
        for probe in probing.plan(models, LABELS):
            looked[-1] += 1
            probing.tried(probe, False if probe.place else len(looked) % 3 == 0)
    assert looked[0] == 2
    assert looked[-1] == 1
    assert 2 in looked[-32:], "but now and then"


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.1)), max_size=6),
    st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=30),
)
def test_a_frame_is_looked_at_by_the_best_there_are_or_by_nobody(
    models: list[tuple[float, float]], waits: list[float | None]
) -> None:
    """Whatever has been learned: no more than three, no one twice, and without knowledge of the cloud all that may."""
    several = [local(str(place), coverage, seconds=seconds) for place, (coverage, seconds) in enumerate(models)]
    probing, labels = Probing(), np.full(CLASSES, 1 / CLASSES)
    for wait in waits:
        probing.waited(wait)
        seen = []
        for probe in probing.plan(several, labels):
            seen.append(probe.model.name)
            probing.tried(probe, len(seen) % 2 == 0)
        assert len(set(seen)) == len(seen) <= 3
        if wait is None:
            assert len(seen) == min(3, len(models))
