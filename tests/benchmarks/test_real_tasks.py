"""Labels by background subtraction, on synthetic pictures."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.real_tasks import ONE, WALKERS, ZONES, Clip, Task, background, foreground, label, toml
from cachenet.shared.inference.image import Picture

_THRESHOLDS = {"share": (0.1, 0.4), "x": (-0.5, 0.5), "bottom": (-0.5, 0.9)}


def _picture(left: int = 0, top: int = 0, width: int = 0, height: int = 0) -> Picture:
    """A noisy grey room with a dark figure."""
    picture = np.random.default_rng(left).integers(118, 128, (100, 100, 3), np.uint8)
    picture[top : top + height, left : left + width] = 20
    return picture


def _label(measure: str, figure: tuple[int, int, int, int]) -> int:
    empty = background([_picture()] * 3, ())
    return label(foreground(_picture(*figure), empty), measure, _THRESHOLDS[measure])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("figure", "share", "x", "bottom"),
    [
        ((0, 0, 0, 0), 0, 0, 0),  # nobody
        ((10, 10, 2, 2), 0, 0, 0),  # a speck
        ((10, 10, 30, 50), 1, 1, 1),  # left, away from the lower edge
        ((60, 60, 30, 40), 1, 2, 2),  # right, cut off by the lower edge
        ((10, 0, 80, 70), 2, 1, 1),  # large; its centre is at 50 of 100 pixels, which exceeds no threshold of 0.5
    ],
)
def test_the_label_counts_the_thresholds_that_the_measure_exceeds(
    figure: tuple[int, int, int, int], share: int, x: int, bottom: int
) -> None:
    assert [_label(measure, figure) for measure in _THRESHOLDS] == [share, x, bottom]


def test_a_person_who_stays_is_foreground_where_empty_frames_are_named() -> None:
    pictures = [_picture()] * 3 + [_picture(40, 40, 30, 30)] * 30
    assert foreground(pictures[-1], background(pictures, ((0, 3),))).any()
    assert not foreground(pictures[-1], background(pictures, ())).any()


@pytest.mark.parametrize("clip", [ONE, WALKERS], ids=lambda clip: clip.video)
def test_the_ranges_of_a_clip_are_disjoint_and_in_order(clip: Clip) -> None:
    parts = (clip.train, clip.learn, clip.tune, clip.play)
    assert all(first < end for first, end in parts)
    assert all(before[1] <= after[0] for before, after in pairwise(parts))
    assert clip.tune[0] - clip.learn[1] == 10
    assert clip.held_out == (clip.learn[0], clip.tune[1])
    assert clip.play[1] - clip.play[0] >= 400


def test_every_zone_has_a_label_for_every_count_of_thresholds() -> None:
    assert all(
        len(zone.labels) == len(zone.thresholds) + 1 and list(zone.thresholds) == sorted(zone.thresholds)
        for zone in ZONES
    )


def test_paths_in_the_output_directory_are_written_relative_to_it(tmp_path: Path) -> None:
    elsewhere, full = Path("/elsewhere/clip.avi"), tmp_path / "full.onnx"
    task = Task(elsewhere, (1, 2, 3, 4), full, full, "imagenet", full, (0, 9), (6, 9), (10, 20))
    written = toml(task, tmp_path)
    assert "truth" not in written
    assert msgspec.toml.decode(written.encode()) == {
        "video": "/elsewhere/clip.avi",
        "region": [1, 2, 3, 4],
        "full": "full.onnx",
        "base": "full.onnx",
        "preprocessing": "imagenet",
        "labels": "full.onnx",
        "held_out": [0, 9],
        "tune": [6, 9],
        "play": [10, 20],
    }
