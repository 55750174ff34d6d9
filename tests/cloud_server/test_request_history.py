"""What is worth training for: working sets that no submodel covers, once there are frames enough, and each once."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.cloud_server.finetune.request_history import (
    ENOUGH,
    RequestHistory,
    Sighting,
    UncoveredSet,
    working_set,
)
from cachenet.shared.bundle.manifest import Bundle, Manifest
from tests.bundles import tiny_bundle

#: Of the tiny bundle's labels: one submodel covers these, and none as much as half of the others.
VEHICLES, MIXED, OTHERS = (0, 1, 8, 9), (0, 1, 3, 5), (2, 7, 8, 9)
HOUR = 3600.0


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle"))).manifest


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def see(
    sightings: RequestHistory, labels: Sequence[int], count: int = ENOUGH, device: str = "cam", picture: bytes = b"x"
) -> None:
    for number in range(count):
        recent = tuple(labels[(number + place) % len(labels)] for place in range(16))
        sightings.add(Sighting(device, picture, np.zeros(10, np.float32), recent))


def fresh(bound: int = 1 << 20) -> tuple[RequestHistory, Clock]:
    clock = Clock()
    return RequestHistory(clock, 10, bound), clock


def labels_of(found: UncoveredSet | None) -> tuple[int, ...] | None:
    return None if found is None else tuple(sorted(found.labels))


def test_a_working_set_is_found_when_there_are_frames_enough_and_not_before(manifest: Manifest) -> None:
    sightings, _ = fresh()
    see(sightings, MIXED, ENOUGH - 1)
    assert sightings.uncovered(manifest) is None
    see(sightings, MIXED, 1)
    found = sightings.uncovered(manifest)
    assert found is not None and labels_of(found) == MIXED
    assert len(found.sightings) == ENOUGH
    assert np.flatnonzero(found.seen).tolist() == list(MIXED)
    assert found.seen.sum() == pytest.approx(1)


def test_what_a_submodel_covers_needs_no_other(manifest: Manifest) -> None:
    sightings, _ = fresh()
    see(sightings, VEHICLES)
    assert sightings.uncovered(manifest) is None


@pytest.mark.parametrize("labels", [(2, 3, 4, 5, 6, 7), tuple(range(1, 10))])
def test_a_working_set_may_be_any_share_of_the_labels(manifest: Manifest, labels: tuple[int, ...]) -> None:
    """Of a state classifier's three labels one camera sees two or three."""
    weak = {name: msgspec.structs.replace(one, coverage=(0.1,) * 10) for name, one in manifest.models.items()}
    sightings, _ = fresh()
    see(sightings, labels)
    found = sightings.uncovered(msgspec.structs.replace(manifest, models=weak))
    assert found is not None and found.labels == set(labels)


def test_nothing_is_tried_twice_but_after_a_while(manifest: Manifest) -> None:
    sightings, clock = fresh()
    see(sightings, MIXED)
    assert sightings.uncovered(manifest) is not None
    see(sightings, (0, 3, 5, 8))  # nearly the same
    assert sightings.uncovered(manifest) is None
    clock.now = HOUR + 1
    assert sightings.uncovered(manifest) is not None


def test_another_working_set_is_not_kept_waiting_by_the_first(manifest: Manifest) -> None:
    sightings, _ = fresh()
    see(sightings, MIXED, device="one")
    see(sightings, OTHERS, device="two")
    assert {labels_of(sightings.uncovered(manifest)) for _ in range(2)} == {MIXED, OTHERS}
    assert sightings.uncovered(manifest) is None


def test_devices_with_one_working_set_share_their_frames(manifest: Manifest) -> None:
    sightings, _ = fresh()
    for device in ("one", "two", "three"):
        see(sightings, MIXED, ENOUGH // 3, device)
    found = sightings.uncovered(manifest)
    assert found is not None
    assert {sighting.device for sighting in found.sightings} == {"one", "two", "three"}


def test_frames_of_the_scene_before_are_left_out(manifest: Manifest) -> None:
    sightings, _ = fresh()
    see(sightings, OTHERS, ENOUGH - 1)
    see(sightings, MIXED, ENOUGH)
    found = sightings.uncovered(manifest)
    assert found is not None and labels_of(found) == MIXED
    assert all(set(sighting.recent) <= set(MIXED) for sighting in found.sightings)


def test_strangers_are_not_of_the_working_set() -> None:
    seen = np.array([0.5, 0.3, 0.15, 0.02, 0.02, 0.01, 0, 0, 0, 0])
    assert working_set(seen) == {0, 1, 2}
    assert working_set(np.zeros(10)) == frozenset()


@given(st.lists(st.integers(1, 5000), max_size=60), st.integers(0, 20_000))
def test_pictures_are_kept_within_the_bound_and_the_latest_are(sizes: list[int], bound: int) -> None:
    sightings, _ = fresh(bound)
    for size in sizes:
        sightings.add(Sighting("cam", bytes(size), np.zeros(10, np.float32), ()))
    kept, total = 0, 0
    for size in reversed(sizes):
        total += size
        if total > bound:
            break
        kept += 1
    assert len(sightings) == kept
