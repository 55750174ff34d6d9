"""Scene changes are detected, and moving objects, flashes and dusk are not."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from cachenet.shared.cascade.frame import Signature
from cachenet.shared.cascade.scene_change import SceneChangeDetector, correlation
from tests.shared.cascade.streams import Thumbnail, noise_stream, noisy, scenery, signature


def alarms(pictures: Iterable[Signature], detector: SceneChangeDetector | None = None) -> list[int]:
    """Frames at which a scene change is detected."""
    detector = detector or SceneChangeDetector()
    return [index for index, picture in enumerate(pictures) if detector.update(picture)]


def after_calm(*pictures: Signature, calm: int = 150) -> list[int]:
    """Alarms, counted from the end of a calm time."""
    return [index - calm for index in alarms([*noise_stream(calm), *pictures])]


def moved(thumbnail: Thumbnail, right: int, down: int) -> Thumbnail:
    return np.roll(thumbnail, (down, right), (0, 1))


def test_a_still_scene_is_no_change() -> None:
    assert alarms(noise_stream(400)) == []


@pytest.mark.parametrize("factor", [0.3, 0.6])
def test_light_off_is_one_change(factor: float) -> None:
    dark = noise_stream(400, seed=1000, picture=factor * scenery())
    assert after_calm(*dark) == [2], "at the third frame, and then no more"


def test_light_on_is_one_change() -> None:
    bright = [*noise_stream(40, seed=1000, picture=np.minimum(1.8 * scenery(), 250.0))]
    assert after_calm(*bright) == [2]


def test_light_off_and_on_is_two_changes() -> None:
    dark = [*noise_stream(200, seed=1000, picture=0.4 * scenery())]
    light = [*noise_stream(100, seed=2000)]
    assert after_calm(*dark, *light) == [2, 202]


def fine(seed: int = 3) -> Thumbnail:
    """A scenery with structure of a few points, whose shift can be found."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.uniform(20.0, 220.0, (8, 8)), np.ones((3, 4))).astype(np.float32)


def test_a_camera_that_is_moved_a_little_is_one_change() -> None:
    before, after = noise_stream(150, picture=fine()), noise_stream(50, 500, moved(fine(), 3, 2))
    assert alarms([*before, *after]) == [152]


def test_a_camera_that_is_turned_away_is_a_change_after_long() -> None:
    away = noise_stream(400, seed=1000, picture=scenery(seed=9))
    [at] = after_calm(*away)
    assert 250 <= at <= 350


@pytest.mark.parametrize("frames", [1, 2])
def test_a_flash_is_no_change(frames: int) -> None:
    flash = [signature(np.full((24, 32), 255.0, np.float32))] * frames
    assert after_calm(*flash, *noise_stream(50, seed=1000)) == []


def test_repeated_flicker_of_two_frames_is_no_change() -> None:
    lit = signature(1.6 * scenery())
    pictures = [picture for calm in noise_stream(40, seed=1000) for picture in (lit, lit, calm)]
    assert after_calm(*pictures) == []


def walker(index: int, share: float) -> Signature:
    """Somebody with a pattern of his own who fills a share of the picture and moves."""
    picture = noisy(scenery(), index)
    across = int(32 * share)
    left = index % (33 - across)
    shirt = np.random.default_rng(5).uniform(0.0, 255.0, (24, across))
    picture[:, left : left + across] = shirt
    return signature(picture)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_person_who_fills_even_most_of_the_picture_is_no_change(share: float) -> None:
    assert after_calm(*(walker(index, share) for index in range(200))) == []


def test_dusk_after_a_long_day_is_no_change() -> None:
    """Light that fades to a third over a thousand frames: the background follows."""
    dusk = (signature(noisy((1.0 - 0.66 * index / 1000) * scenery(), index)) for index in range(1000))
    assert after_calm(*dusk, calm=1500) == []


def test_unrelated_pictures_are_no_change() -> None:
    """As of a stream of photographs: that is how this stream is."""
    assert alarms(signature(scenery(seed=index)) for index in range(300)) == []


def test_photographs_that_stay_for_a_while_are_no_change() -> None:
    shown = (signature(noisy(scenery(seed=index // 30), index)) for index in range(600))
    assert alarms(shown) == []


def test_a_scene_of_few_frames_has_no_change() -> None:
    dark = noise_stream(50, seed=1000, picture=0.4 * scenery())
    assert after_calm(*dark, calm=20) == []


def test_correlation_is_high_after_light_or_a_small_move_and_low_for_another_scene() -> None:
    scene = fine()
    assert correlation(scene, 0.3 * scene + 10.0) == pytest.approx(1.0)
    assert correlation(scene, moved(scene, -4, 3)) > 0.9
    assert correlation(scene, fine(seed=8)) < 0.75
    assert correlation(scene, np.zeros_like(scene)) == -1.0, "a black picture is like nothing"


def test_lasting_darkness_is_a_scene_change() -> None:
    black = signature(np.zeros((24, 32), np.float32))
    assert len(after_calm(*[black] * 100)) == 1
    assert after_calm(black, black) == []
