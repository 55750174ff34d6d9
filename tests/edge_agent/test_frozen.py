"""A frozen camera is distinguished from a working one, a paused one and one with a still scene."""

from __future__ import annotations

import numpy as np
import pytest

from cachenet.edge_agent.sources.frozen import FROZEN_S, FrozenAlarm, Stillness
from cachenet.shared.inference.image import Picture


def picture(seed: int = 0) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


def fed(shots: list[tuple[float, Picture]]) -> Stillness:
    stillness = Stillness()
    for now, shown in shots:
        stillness.add(shown, now)
    return stillness


def test_the_same_bytes_for_ten_seconds_are_frozen() -> None:
    """Whether or not they are in the same memory."""
    assert fed([(100 + second, picture().copy()) for second in range(11)]).frozen
    assert FROZEN_S == 10


def test_less_than_ten_seconds_are_not() -> None:
    assert not fed([(100 + tenth / 10, picture()) for tenth in range(100)]).frozen


def test_a_pause_without_pictures_is_no_freeze() -> None:
    assert not fed([(0, picture(1)), (9.9, picture(1)), (60, picture(2)), (69, picture(2))]).frozen


@pytest.mark.parametrize("directory", [(0, 0), (17, 3), (47, 63)])
def test_one_pixel_that_changes_is_enough(directory: tuple[int, int]) -> None:
    """Of a still scene the noise of the sensor changes some, anywhere."""
    shots = []
    for second in range(60):
        shown = picture()
        shown[directory] = second
        shots.append((float(second), shown))
    assert fed(shots).seconds == 0


def test_another_size_is_another_picture() -> None:
    assert fed([(0, np.zeros((4, 4, 3), np.uint8)), (20, np.zeros((4, 8, 3), np.uint8))]).seconds == 0


def test_freezing_and_recovery_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    alarm = FrozenAlarm()
    for second in range(30):
        alarm.add(picture(), float(second), "the door")
        assert bool(alarm.error) == (second >= 10)
    alarm.add(picture(1), 30.0, "the door")
    assert alarm.error == ""
    assert [record.getMessage() for record in caplog.records] == [
        "the door: the same picture for 10 s; is the camera frozen?",
        "the door: its picture changes again, after 29 s",
    ]
