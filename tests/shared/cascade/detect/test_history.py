"""Tracks and their history: motion carries them, detections and replies correct them, in whatever order they come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.shared.cascade.detect import tracks as columns
from cachenet.shared.cascade.detect.detections import NOTHING, Detections
from cachenet.shared.cascade.detect.history import HISTORY, History
from cachenet.shared.cascade.detect.tracks import MAX_TRACKS, NO_TRACKS, Tracks, carry, confirm, observe
from cachenet.shared.cascade.detect.types import Motion
from tests.shared.cascade.detect.scenes import boxes, frame, shifted, walkers
from tests.shared.cascade.detect.test_detections import detections


def equal(one: Tracks, other: Tracks) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("labels", "boxes", "state"))


@given(detections(), detections(), st.randoms(use_true_random=False))
def test_the_order_of_detections_changes_nothing(first: Detections, second: Detections, random: object) -> None:
    def shuffled(found: Detections) -> Detections:
        order = np.arange(len(found))
        random.shuffle(order)  # type: ignore[attr-defined]
        return found.take(order)

    before = observe(NO_TRACKS, first, 0)
    one, other = observe(before, second, 1), observe(before, shuffled(second), 1)
    by_box = np.lexsort((*one.boxes.T, *one.state.T)), np.lexsort((*other.boxes.T, *other.state.T))
    assert equal(one.take(by_box[0]), other.take(by_box[1]))


def test_an_empty_scene_stays_empty() -> None:
    history = History()
    for index in range(50):
        moment = history.add(frame(index, shifted(0.1)))
        history.observe(moment, NOTHING, "base")
        if index % 7 == 0:
            history.confirm(moment, NOTHING)
        assert not len(moment.tracks)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.dictionaries(st.integers(0, 24), st.integers(0, 6), max_size=8), st.data())
def test_a_late_reply_gives_the_tracks_of_one_in_time(seed: int, delays: dict[int, int], data: st.DataObject) -> None:
    trace = walkers(25, seed)
    in_time, late = History(), History()
    waiting: list[tuple[int, int]] = []
    for at in range(25):
        for history in (in_time, late):
            moment = history.add(trace.frames[at])
            if at % 3:
                history.observe(moment, trace.base[at], "base")
        if at in delays:
            moment = in_time.find(at)
            assert moment is not None
            in_time.confirm(moment, trace.full[at])
            waiting.append((at + delays[at], at))
        due = [one for one in waiting if one[0] <= at]
        for one in data.draw(st.permutations(due)) if due else ():
            waiting.remove(one)
            moment = late.find(one[1])
            assert moment is not None
            late.confirm(moment, trace.full[one[1]])
    for _, at in waiting:
        moment = late.find(at)
        assert moment is not None
        late.confirm(moment, trace.full[at])
    one, other = in_time.find(24), late.find(24)
    assert one is not None
    assert other is not None
    assert equal(one.tracks, other.tracks)


def test_a_reply_is_carried_to_the_present() -> None:
    history = History()
    for index in range(6):
        moment = history.add(frame(index, shifted(0.01, 0.02)))
    asked = history.find(2)
    assert asked is not None
    history.confirm(asked, boxes((0.1, 0.1, 0.2, 0.3)))
    np.testing.assert_allclose(moment.tracks.boxes, [[0.13, 0.16, 0.23, 0.36]], atol=1e-6)


def test_the_history_is_bounded() -> None:
    history = History()
    for index in range(10 * HISTORY):
        history.add(frame(index))
    assert len(history) == HISTORY
    assert history.find(0) is None


def test_tracks_are_bounded_and_those_that_the_full_model_confirms_stay() -> None:
    grid = [(x / 16, y / 16, x / 16 + 0.05, y / 16 + 0.05) for x in range(15) for y in range(15)]
    tracks = confirm(NO_TRACKS, boxes((0.95, 0.95, 1.0, 1.0)), 0)
    for index in range(1, 5):
        tracks = observe(tracks, boxes(*grid), index)
    assert len(tracks) == MAX_TRACKS
    assert tracks.state[:, columns.CONFIRMED].sum() == 1


def test_a_track_ends_where_its_centre_leaves_the_picture_and_where_its_content_is_lost() -> None:
    tracks = observe(NO_TRACKS, boxes((0.8, 0.4, 1.0, 0.6), (0.1, 0.4, 0.3, 0.6)), 0)
    assert len(carry(tracks, shifted(0.15)(tracks.boxes))) == 1
    assert not len(carry(tracks, shifted(0.0, consistency=0.0)(tracks.boxes)))


def test_a_detection_moves_a_track_by_the_share_that_its_variance_says() -> None:
    found, later = boxes((0.4, 0.4, 0.6, 0.6)), boxes((0.42, 0.4, 0.62, 0.6))
    exact, vague = confirm(NO_TRACKS, found, 0), observe(NO_TRACKS, found, 0)
    assert observe(exact, later, 1).boxes[0, 0] == np.float32(0.4)
    assert observe(vague, later, 1).boxes[0, 0] == pytest.approx(0.41)


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_track_that_no_detector_finds_ends(confirmed: bool) -> None:
    found = boxes((0.4, 0.4, 0.6, 0.6))
    tracks = confirm(NO_TRACKS, found, 0) if confirmed else observe(NO_TRACKS, found, 0)
    frames = 0
    while len(tracks):
        frames += 1
        tracks = observe(carry(tracks, shifted(0.0)(tracks.boxes)), NOTHING, frames)
        assert frames < 50
    assert frames == (11 if confirmed else 4)


def test_a_second_box_of_an_object_begins_no_track_and_one_of_another_label_does() -> None:
    tracks = observe(NO_TRACKS, boxes((0.4, 0.4, 0.6, 0.6)), 0)
    twice = Detections(
        np.array([[0.4, 0.4, 0.6, 0.6], [0.42, 0.4, 0.62, 0.6], [0.41, 0.4, 0.61, 0.6]], np.float32),
        np.array([0, 0, 1]),
        np.array([0.9, 0.8, 0.7], np.float32),
    )
    assert observe(tracks, twice, 1).labels.tolist() == [0, 1]


def test_motion_without_tracks_is_not_measured() -> None:
    def never(_: object) -> Motion:
        raise AssertionError("motion of no boxes")

    history = History()
    history.add(frame(0))
    assert not len(history.add(frame(1, never)).tracks)
