"""The picture of a live run has its size, with and without truth, submodels and fallbacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.media.pictures import header
from cachenet.simulator.report import live_picture, live_report
from cachenet.simulator.report.live_report import Setting, Summary
from cachenet.simulator.world.emulator import Counts

_LEVELS = ("cloud", "base", "submodels", "frames", "fallback")


def _lines(frames: int, levels: tuple[str, ...], truth: bool) -> list[AnswerLine]:
    return [
        AnswerLine(
            frame=i,
            time=float(i),
            label="cat",
            confidence=0.9,
            risk=0.1,
            level=levels[i % len(levels)],
            model=f"submodel-{i // 20}",
            latency_ms=0.0 if i == 3 else 1.0 + i,
            truth=("cat", "dog")[i // 25 % 2] if truth else None,
        )
        for i in range(frames)
    ]


@pytest.mark.parametrize("policies", [("cachenet", "server-only", "device-only"), ("cachenet",)])
@pytest.mark.parametrize(("frames", "levels", "truth"), [(60, _LEVELS, True), (2, ("base",), False)])
def test_a_picture_is_drawn_with_and_without_baselines(
    tmp_path: Path, frames: int, levels: tuple[str, ...], truth: bool, policies: tuple[str, ...]
) -> None:
    lines = _lines(frames, levels, truth)
    outcome = live_report.outcome(lines, Summary(frames), Counts(0, 0), {}, frames)
    path = tmp_path / "demo.png"
    live_picture.draw(path, lines, dict.fromkeys(policies, outcome), Setting("camera", 0, "lan", 30, {}))
    found = header(path.read_bytes())
    assert (found.width, found.height) == (1400, 900)
