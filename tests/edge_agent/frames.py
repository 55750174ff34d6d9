"""Answered frames for tests of observers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.outputs.report import WHOLE_PICTURE, AnswerLine, View, line
from cachenet.shared.bundle.manifest import FORMAT, Manifest
from cachenet.shared.cascade.detect.types import SceneAnswer, TrackedObject
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


def detector(*labels: str) -> Manifest:
    """The manifest of a detector, but for its models."""
    return Manifest(FORMAT, "street", "detection", labels, {}, {})


STREET = detector("person", "car", "traffic light")
#: Left, top, width and height.
Box = tuple[float, float, float, float]


def tracked(track: int, box: Box, label: int = 0, risk: float = 0.1) -> TrackedObject:
    return TrackedObject(track, label, 1 - risk, box, risk)


def detected_frame(
    objects: Sequence[TrackedObject] = (),
    frame: int = 0,
    view: View = WHOLE_PICTURE,
    level: Level = "tracks",
    reason: str = "",
    picture: Picture | None = None,
    time: float = 0.0,
    manifest: Manifest = STREET,
) -> AnsweredFrame:
    """An answered frame of a detector."""
    answer = SceneAnswer(frame, tuple(objects), 0.06, level, "base", reason)
    own = line(answer, manifest, time, 4.2, view=view)
    return AnsweredFrame(noise(48, 64, frame) if picture is None else picture, answer, own, lines=(own,))
