"""Footage of a build of detectors: which part of the frames is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.progress import Progress

from cachenet.models.data.frames import find
from cachenet.models.detect.footage import read_block
from cachenet.models.export.detector import load_detector
from tests.models import squares


def test_footage_of_a_region_is_not_that_of_whole_frames(tmp_path: Path) -> None:
    """From one work directory: the objects of a region are those of its pictures."""
    full = load_detector(squares.detector(tmp_path / "full.onnx"), kind="heatmap")
    video = squares.video(tmp_path / "squares.avi", 30)
    with Progress(disable=True) as progress:
        whole, part = (
            read_block(full, find(video, 1, region), squares.INPUT, tmp_path, 1, progress)
            for region in (None, (0.0, 0.0, 0.5, 1.0))
        )
    assert len(whole) == len(part) == 30
    assert not np.array_equal(whole.pictures[0], part.pictures[0])
    assert [len(found) for found in part.objects] != [len(found) for found in whole.objects]
