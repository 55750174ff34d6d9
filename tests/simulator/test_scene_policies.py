"""Policies for detectors on synthetic scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenet.shared.cascade.detect.detections import NOTHING, Detections
from cachenet.shared.cascade.detect.scene_replay import SceneTrace
from cachenet.shared.cascade.detect.spec import SceneSpec
from cachenet.simulator.policies import scene, scene_cachenet
from cachenet.simulator.policies.scene import Device, Maker
from cachenet.simulator.policies.scene_cachenet import CacheNet
from cachenet.simulator.policies.scene_run import PolicyRun, run
from cachenet.simulator.traces.scene_recording import SceneRecording
from tests.shared.cascade.detect.scenes import boxes, frame, same, shifted, walkers
from tests.simulator.scene_recordings import BASE_MS, network, recording_of, still, walking

SPEC = SceneSpec(2, "full")
MAKERS: dict[str, Maker] = {
    "server-only": lambda device: scene.Hold(device, 1),
    "hold": lambda device: scene.Hold(device, 4),
    "carry": lambda device: scene.Carry(device, 4),
    "difference": lambda device: scene.Difference(device, 10),
    "device-base": lambda device: scene.DeviceBase(device, 0.4),
    "motion": lambda device: scene.Motion(device, 0.4, 0.0),
    "react": lambda device: scene.React(device, 1, 4, 0.4, 0.5),
    "oracle": lambda device: scene.Oracle(device, 0.1),
    "cachenet": lambda device: CacheNet(device, SPEC),
}
OBJECTS = boxes((0.1, 0.1, 0.2, 0.4), (0.5, 0.5, 0.6, 0.9))


def crowd(frames: int = 120, seed: int = 0) -> SceneRecording:
    return recording_of(walkers(frames, seed))


@pytest.mark.parametrize("n", [1, 3, 7])
def test_holding_a_still_scene_is_right_and_asks_every_nth_frame(n: int) -> None:
    found = run(lambda device: scene.Hold(device, n), still(42, OBJECTS), network())
    assert found.streaming_f1 == 1.0
    assert np.flatnonzero(found.asked).tolist() == list(range(0, 42, n))


@pytest.mark.parametrize("name", MAKERS)
def test_an_empty_scene_stays_empty(name: str) -> None:
    found = run(MAKERS[name], still(60, NOTHING), network(0.25))
    assert not found.counts.any()
    assert not found.errors.any()


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_run_gives_the_same_answers(name: str) -> None:
    one, other = (run(MAKERS[name], crowd(), network(0.15)) for _ in range(2))
    assert all(map(same, one.answers, other.answers))
    assert np.array_equal(one.asked, other.asked)
    assert one.levels == other.levels


@pytest.mark.parametrize("name", MAKERS)
def test_no_policy_depends_on_frames_to_come(name: str) -> None:
    recording = crowd()
    cut = recording_of(SceneTrace(recording.frames[:60], recording.full[:60], recording.base[:60]))
    long, short = (run(MAKERS[name], one, network(0.15)) for one in (recording, cut))
    assert all(map(same, long.answers, short.answers))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_a_server_without_delay_is_always_right(seed: int) -> None:
    found = run(MAKERS["server-only"], crowd(40, seed), network())
    assert found.streaming_f1 == 1.0
    assert set(found.levels) == {"cloud"}


@pytest.mark.parametrize("late", [1, 2, 5])
def test_a_server_alone_says_what_was_there_when_it_was_asked(late: int) -> None:
    recording = crowd(40)
    found = run(MAKERS["server-only"], recording, network(late / 10 - 0.01))
    assert set(found.delays) == {late}
    assert all(not len(answer) for answer in found.answers[:late])
    assert all(map(same, found.answers[late:], recording.full))


@pytest.mark.parametrize("n", [1, 5])
def test_a_late_reply_carried_by_exact_motion_is_right(n: int) -> None:
    recording, late = walking(40), 3
    carried, held = (
        run(partial(make, n=n), recording, network(late / 10 - 0.01)) for make in (scene.Carry, scene.Hold)
    )
    assert not carried.counts[late:, 1:].any()
    assert held.counts[late:, 1:].any()


def test_difference_asks_once_in_a_still_scene_and_again_after_a_change() -> None:
    frames = [frame(at, shifted(0.0), level=100.0 if at < 20 else 110.0) for at in range(40)]
    recording = recording_of(SceneTrace(frames, [OBJECTS] * 40, [NOTHING] * 40))

    def asked(limit: float) -> list[int]:
        return np.flatnonzero(run(lambda device: scene.Difference(device, limit), recording, network()).asked).tolist()

    assert asked(99.0) == [0, 20]
    assert asked(101.0) == [0]


def test_motion_runs_the_detector_only_where_the_picture_changes() -> None:
    frames = [frame(at, shifted(0.0), moved=at in (10, 11)) for at in range(30)]
    base = [boxes((0.1, 0.1, 0.2, 0.2)) if at < 11 else OBJECTS for at in range(30)]
    found = run(MAKERS["motion"], recording_of(SceneTrace(frames, base, base)), network())
    assert found.streaming_f1 == 1.0
    assert np.flatnonzero(np.array(found.levels) == "base").tolist() == [0, 10, 11]
    assert found.device_ms.min() < BASE_MS <= found.device_ms[10]
    assert not found.asked.any()


def test_a_base_detector_is_bounded_by_its_threshold() -> None:
    unsure = Detections(OBJECTS.boxes, OBJECTS.labels, np.array([0.9, 0.3], np.float32))
    found = run(MAKERS["device-base"], still(5, OBJECTS, unsure), network())
    assert found.counts[0].tolist() == [1, 0, 1]


def test_react_shows_an_object_after_two_detections_and_no_single_false_one() -> None:
    false = boxes((0.8, 0.8, 0.9, 0.9))
    base = [OBJECTS if at else false for at in range(20)]
    frames = [frame(at, shifted(0.0)) for at in range(20)]
    found = run(
        lambda device: scene.React(device, 1, 0, 0.4, 0.5), recording_of(SceneTrace(frames, base, base)), network()
    )
    assert not any(map(len, found.answers[:2]))
    assert all(len(answer) == 2 for answer in found.answers[2:])


def test_react_follows_what_only_the_full_model_finds() -> None:
    recording = walking(8)
    found = run(lambda device: scene.React(device, 100, 3, 0.4, 0.5), recording, network(0.19))
    assert not found.counts[2:, 1:].any()


def test_react_ends_tracks_that_nothing_confirms() -> None:
    recording = still(40, NOTHING)
    recording = recording_of(SceneTrace(recording.frames, [OBJECTS, *recording.full[1:]], recording.base))
    found = run(lambda device: scene.React(device, 1, 100, 0.4, 0.5), recording, network())
    shown = [at for at, answer in enumerate(found.answers) if len(answer)]
    assert shown == list(range(scene.React._KNOWN_MISSES))


def test_labels_are_not_confused() -> None:
    """A track of one label is not continued by detections of another."""
    other = Detections(OBJECTS.boxes, OBJECTS.labels + 1, OBJECTS.scores)
    frames = [frame(at, shifted(0.0)) for at in range(20)]
    recording = recording_of(SceneTrace(frames, [OBJECTS] * 20, [other] * 20))
    found = run(lambda device: scene.React(device, 1, 5, 0.4, 0.5), recording, network())
    assert {int(label) for answer in found.answers[:2] for label in answer.labels} == {0}


def tries(
    make: Callable[..., scene.ScenePolicy], settings: Sequence[tuple[float, ...]], recording: SceneRecording
) -> list[PolicyRun]:
    def maker(setting: tuple[float, ...]) -> Maker:
        return lambda device: make(device, *setting)

    return [run(maker(setting), recording, network(0.15)) for setting in settings]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_policy_is_better_than_the_oracle_at_equal_questions(seed: int) -> None:
    recording = crowd(100, seed)
    bounds = tries(scene.Oracle, [(0.0,), (0.05,), (0.1,), (0.2,), (0.3,), (1.0,)], recording)
    others = tries(scene.React, [(1, n, 0.4, 0.5) for n in (0, 2, 5, 10)], recording)
    others += tries(scene.Hold, [(n,) for n in (1, 2, 5)], recording)
    others += tries(scene.DeviceBase, [(0.3,), (0.6,)], recording)
    others.append(run(MAKERS["cachenet"], recording, network(0.15)))
    for other in others:
        reached = [one.streaming_f1 for one in bounds if one.asked_share <= other.asked_share]
        assert max(reached) >= other.streaming_f1


def test_cachenet_stops_asking_in_a_still_scene() -> None:
    priors = scene_cachenet.priors(crowd(200), 2)
    spec = SceneSpec(2, "full", priors)
    found = run(lambda device: CacheNet(device, spec), still(300, OBJECTS, OBJECTS), network(0.15))
    assert found.asked[100:].mean() < 0.1
    assert found.streaming_f1 > 0.97
    assert found.levels.count("frames") > 150


def test_the_cascade_gets_each_reply_once_and_in_its_role(monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[str, list[int]] = {"late": [], "audit": []}
    made: list[CacheNet] = []

    def make(device: Device) -> CacheNet:
        policy = CacheNet(device, SceneSpec(2, "full", audit_floor=0.3))
        late, audit = policy.cascade.on_late_reply, policy.cascade.on_audit_reply
        monkeypatch.setattr(
            policy.cascade, "on_late_reply", lambda reply, now: (got["late"].append(reply.frame), late(reply, now))[1]
        )
        monkeypatch.setattr(
            policy.cascade,
            "on_audit_reply",
            lambda reply, now: (got["audit"].append(reply.frame), audit(reply, now))[1],
        )
        made.append(policy)
        return policy

    found = run(make, crowd(200), network(0.15))
    missed = {at for at, level in enumerate(found.levels) if level == "fallback"}
    assert got["audit"]
    assert set(got["late"]) <= missed
    assert not missed & set(got["audit"])
    asked = np.flatnonzero(found.asked).tolist()
    assert sorted(got["late"] + got["audit"]) == asked[: len(found.delays)]
    assert made[0].cascade.tally.late == len(got["late"])


def test_a_reply_within_its_frame_is_the_answer() -> None:
    found = run(MAKERS["cachenet"], crowd(40), network())
    asked = [at for at, level in enumerate(found.levels) if level == "cloud"]
    assert asked
    assert not found.counts[asked, 1:].any()


def test_while_the_line_is_busy_nothing_is_sent() -> None:
    recording = recording_of(walkers(100), nbytes=25_000)  # 0.25 s at 0.8 Mbit/s: 2.5 frames
    found = run(MAKERS["server-only"], recording, network(0.0, mbit=0.8))
    assert np.flatnonzero(found.asked).tolist() == list(range(0, 100, 3))
    assert set(found.delays) == {3}
    assert found.kb_up_s == pytest.approx((25_000 + 220) * 34 / 10 / 1000)
