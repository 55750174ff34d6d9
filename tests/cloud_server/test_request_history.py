"""Working sets that no submodel covers: each is found once, when there are enough frames."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenet.cloud_server.finetune.request_history import (
    MIN_FRAMES,
    AnsweredRequest,
    RequestHistory,
    UncoveredSet,
    working_set,
)
from cachenet.shared.bundle.manifest import Bundle, Manifest
from tests.bundles import tiny_bundle

#: Labels that a submodel of the tiny bundle covers.
VEHICLES = (0, 1, 8, 9)
#: Labels that no submodel covers.
MIXED, OTHERS = (0, 1, 3, 5), (2, 7, 8, 9)
HOUR = 3600.0


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle"))).manifest


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def add(
    history: RequestHistory, labels: Sequence[int], count: int = MIN_FRAMES, device: str = "cam", picture: bytes = b"x"
) -> None:
    for number in range(count):
        recent = tuple(labels[(number + offset) % len(labels)] for offset in range(16))
        history.add(AnsweredRequest(device, picture, np.zeros(10, np.float32), recent))


def empty(bound: int = 1 << 20) -> tuple[RequestHistory, Clock]:
    clock = Clock()
    return RequestHistory(clock, 10, bound), clock


def labels_of(found: UncoveredSet | None) -> tuple[int, ...] | None:
    return None if found is None else tuple(sorted(found.labels))


def test_a_working_set_is_found_as_soon_as_it_has_enough_frames(manifest: Manifest) -> None:
    history, _ = empty()
    add(history, MIXED, MIN_FRAMES - 1)
    assert history.uncovered(manifest) is None
    add(history, MIXED, 1)
    found = history.uncovered(manifest)
    assert found is not None and labels_of(found) == MIXED
    assert len(found.requests) == MIN_FRAMES
    assert np.flatnonzero(found.distribution).tolist() == list(MIXED)
    assert found.distribution.sum() == pytest.approx(1)


def test_a_covered_working_set_is_not_found(manifest: Manifest) -> None:
    history, _ = empty()
    add(history, VEHICLES)
    assert history.uncovered(manifest) is None


@pytest.mark.parametrize("labels", [(2, 3, 4, 5, 6, 7), tuple(range(1, 10))])
def test_a_working_set_may_be_any_share_of_the_labels(manifest: Manifest, labels: tuple[int, ...]) -> None:
    """A camera may see two or three of a state classifier's three labels."""
    weak = {name: msgspec.structs.replace(one, coverage=(0.1,) * 10) for name, one in manifest.models.items()}
    history, _ = empty()
    add(history, labels)
    found = history.uncovered(msgspec.structs.replace(manifest, models=weak))
    assert found is not None and found.labels == set(labels)


def test_a_working_set_is_tried_again_only_after_an_hour(manifest: Manifest) -> None:
    history, clock = empty()
    add(history, MIXED)
    assert history.uncovered(manifest) is not None
    add(history, (0, 3, 5, 8))  # nearly the same
    assert history.uncovered(manifest) is None
    clock.now = HOUR + 1
    assert history.uncovered(manifest) is not None


def test_two_different_working_sets_are_found_one_after_the_other(manifest: Manifest) -> None:
    history, _ = empty()
    add(history, MIXED, device="one")
    add(history, OTHERS, device="two")
    assert {labels_of(history.uncovered(manifest)) for _ in range(2)} == {MIXED, OTHERS}
    assert history.uncovered(manifest) is None


def test_frames_of_all_devices_with_the_working_set_are_used(manifest: Manifest) -> None:
    history, _ = empty()
    for device in ("one", "two", "three"):
        add(history, MIXED, MIN_FRAMES // 3, device)
    found = history.uncovered(manifest)
    assert found is not None
    assert {request.device for request in found.requests} == {"one", "two", "three"}


def test_frames_of_an_earlier_working_set_are_not_used(manifest: Manifest) -> None:
    history, _ = empty()
    add(history, OTHERS, MIN_FRAMES - 1)
    add(history, MIXED, MIN_FRAMES)
    found = history.uncovered(manifest)
    assert found is not None and labels_of(found) == MIXED
    assert all(set(request.recent) <= set(MIXED) for request in found.requests)


def test_rare_labels_are_not_part_of_the_working_set() -> None:
    distribution = np.array([0.5, 0.3, 0.15, 0.02, 0.02, 0.01, 0, 0, 0, 0])
    assert working_set(distribution) == {0, 1, 2}
    assert working_set(np.zeros(10)) == frozenset()


@given(st.lists(st.integers(1, 5000), max_size=60), st.integers(0, 20_000))
def test_the_history_has_the_latest_pictures_within_the_bound(sizes: list[int], bound: int) -> None:
    history, _ = empty(bound)
    for size in sizes:
        history.add(AnsweredRequest("cam", bytes(size), np.zeros(10, np.float32), ()))
    expected, total = 0, 0
    for size in reversed(sizes):
        total += size
        if total > bound:
            break
        expected += 1
    assert len(history) == expected
