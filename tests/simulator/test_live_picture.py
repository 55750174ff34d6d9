"""The pictures of live runs have their size, whatever the runs were like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cachenet.edge_agent.outputs.report import AnswerLine, Object
from cachenet.shared.media.pictures import header
from cachenet.simulator.live import classification_picture, detection_picture, outcome
from cachenet.simulator.live.outcome import POLICIES, Run, Setting, Summary
from cachenet.simulator.world.emulator import Counts

_LEVELS = ("cloud", "base", "submodels", "tracks", "frames", "fallback")


def _lines(frames: int, levels: tuple[str, ...], truth: bool = False, objects: int | None = None) -> list[AnswerLine]:
    """``objects``: number of objects in each answer; None for labels."""
    found = (
        None if objects is None else tuple(Object(i, "cat", 0.9, (0.1 * i, 0.2, 0.3, 0.4), 0.1) for i in range(objects))
    )
    return [
        AnswerLine(
            frame=i,
            time=float(i),
            label="cat" if found is None else "",
            objects=found,
            confidence=0.9,
            risk=0.1,
            level=levels[i % len(levels)],
            model=f"submodel-{i // 20}",
            latency_ms=0.0 if i == 3 else 1.0 + i,
            truth=("cat", "dog")[i // 25 % 2] if truth else None,
        )
        for i in range(frames)
    ]


def _own(lines: list[AnswerLine]) -> outcome.Outcome:
    return outcome.Outcome(**outcome.measures(Run(lines, Summary(len(lines)), Counts(0, 0)), len(lines)))


def _setting(frames: int) -> Setting:
    return Setting("camera", frames, 0, "lan", 30, {})


def _assert_size(path: Path) -> None:
    found = header(path.read_bytes())
    assert (found.width, found.height) == (1400, 900)


@pytest.mark.parametrize("baselines", [{"server-only": 30.0, "device-only": 31.0}, {}], ids=["baselines", "none"])
@pytest.mark.parametrize(("frames", "levels", "truth"), [(60, _LEVELS, True), (2, ("base",), False)])
def test_a_picture_of_labels_is_drawn_with_and_without_baselines(
    tmp_path: Path, frames: int, levels: tuple[str, ...], truth: bool, baselines: dict[str, float]
) -> None:
    lines = _lines(frames, levels, truth)
    classification_picture.draw(tmp_path / "demo.png", lines, _own(lines), baselines, _setting(frames))
    _assert_size(tmp_path / "demo.png")


@pytest.mark.parametrize("policies", [POLICIES, POLICIES[:1]], ids=["all policies", "one policy"])
@pytest.mark.parametrize(("frames", "levels", "objects"), [(60, _LEVELS, 3), (2, ("base",), 0)])
def test_a_picture_of_objects_is_drawn_with_and_without_baselines(
    tmp_path: Path, frames: int, levels: tuple[str, ...], objects: int, policies: tuple[str, ...]
) -> None:
    lines = _lines(frames, levels, objects=objects)
    counts = {name: np.tile((3.0, place, 0.0), (frames, 1)) for place, name in enumerate(policies)}
    pictures = {number: np.zeros((48, 64, 3), np.uint8) for number in detection_picture.shown_frames(frames)}
    path = tmp_path / "demo.png"
    detection_picture.draw(path, lines, "Title", _own(lines), counts, pictures, _setting(frames))
    _assert_size(path)


@pytest.mark.parametrize("frames", [2, 3, 4, 200])
def test_shown_frames_are_different_frames_of_the_video(frames: int) -> None:
    found = detection_picture.shown_frames(frames)
    assert found == sorted(set(found)) and set(found) <= set(range(frames)) and len(found) == min(frames, 3)
