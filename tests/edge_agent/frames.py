"""Answered frames for tests of observers."""

from __future__ import annotations

import numpy as np

from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.cascade.types import UNKNOWN, Answer, Level
from cachenet.shared.inference.image import Picture


def noise(height: int, width: int, seed: int = 0) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def answered_frame(
    frame: int = 0,
    label: str = "cat",
    level: Level = "base",
    picture: Picture | None = None,
    confidence: float = 0.9,
    latency_ms: float = 1.5,
    reason: str = "",
    camera: str = "",
    time: float = 0.0,
) -> AnsweredFrame:
    answer = Answer(frame, None if label == UNKNOWN else 3, confidence, 0.02, level, "base", reason)
    line = AnswerLine(
        frame=frame, time=time, label=label, confidence=confidence, risk=0.02, level=level, model="base",
        latency_ms=latency_ms, reason=reason, camera=camera,
    )  # fmt: skip
    return AnsweredFrame(noise(48, 64, frame) if picture is None else picture, answer, line, lines=(line,))
