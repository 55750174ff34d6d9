"""Settings are chosen on the build frames alone."""

from __future__ import annotations

from benchmarks.objects import choice
from cachenet.shared.cascade.detect.scene_replay import SceneTrace
from cachenet.simulator.traces.scene_recording import SceneRecording
from tests.shared.cascade.detect.scenes import walkers
from tests.simulator.scene_recordings import network, recording_of, walking


def crowd(frames: int, seed: int) -> SceneRecording:
    return recording_of(walkers(frames, seed))


def test_settings_do_not_depend_on_the_measured_frames() -> None:
    build = crowd(60, 0)
    for family in choice.families(0.4)[:5]:
        one, other = (choice.tried(family, build, measured, network(0.15)) for measured in (crowd(40, 1), walking(50)))
        assert [tried.setting for tried in one] == [tried.setting for tried in other]


def test_of_the_settings_those_stay_that_gain_by_more_questions() -> None:
    family = next(family for family in choice.families(0.4) if family.name == "hold")
    found = choice.tried(family, crowd(80, 0), crowd(40, 1), network(0.15))
    asked, scores = ([getattr(one.build, name) for one in found] for name in ("asked_share", "streaming_f1"))
    assert asked == sorted(asked)
    assert scores == sorted(set(scores))
    assert len(found) > 2


def test_the_threshold_is_the_best_one_of_the_build_frames() -> None:
    """Walkers are found with scores over 0.5; false detections have at most 0.7."""
    build = recording_of(walkers(100, false=2.0))
    score = choice.best_score(build, network())
    assert 0.5 <= score <= 0.7
    swapped = recording_of(SceneTrace(build.frames, build.base, build.base))
    assert choice.best_score(swapped, network()) <= 0.2
