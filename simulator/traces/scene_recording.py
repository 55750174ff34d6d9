"""Recorded detections and motion of one camera's frames. Policies for detectors are simulated on recordings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import Boxes, Detections
from cachenet.shared.cascade.detect.types import Flow, Motion, SceneFrame

Milliseconds = npt.NDArray[np.float64]


@dataclass
class Meter:
    """Time of the measurements of motion since the last reading.

    Attributes:
        recorded: Time that they took on a device, seconds.
        spent: Time that they took in this process, seconds: less, where a measurement is repeated.
    """

    recorded: float = 0.0
    spent: float = 0.0

    def take(self) -> tuple[float, float]:
        """Read both times and reset them."""
        result = self.recorded, self.spent
        self.recorded = self.spent = 0.0
        return result


class RecordedFlow:
    """The motion between a frame and the one before. Motion of the same boxes is measured once."""

    def __init__(self, flow: Flow, meter: Meter) -> None:
        self._flow, self._meter = flow, meter
        self._known: dict[bytes, tuple[Motion, float]] = {}

    def __call__(self, boxes: Boxes) -> Motion:
        begun = time.perf_counter()
        key = boxes.tobytes()
        if key not in self._known:
            motion = self._flow(boxes)
            self._known[key] = motion, time.perf_counter() - begun
        motion, seconds = self._known[key]
        self._meter.recorded += seconds
        self._meter.spent += time.perf_counter() - begun
        return motion


@dataclass(frozen=True, eq=False)
class SceneRecording:
    """What a device and a server would know of ``n`` consecutive frames of one camera.

    Attributes:
        fps: Frame rate, frames per second.
        frames: The frames; index and view of each are its position.
        full: Objects that the full model finds in each frame: the reference, and what the server replies.
        base: Detections of the device's detector in each frame, also those of low score.
        nbytes: Size of the encoded picture that a question carries, bytes ``(n,)``.
        base_ms: Run time of the device's detector, milliseconds ``(n,)``.
        picture_ms: Time of preparing each picture for motion and signature, milliseconds ``(n,)``.
        encode_ms: Time of encoding the picture of a question, milliseconds ``(n,)``.
        meter: Time of the measurements of motion.
    """

    fps: float
    frames: Sequence[SceneFrame]
    full: Sequence[Detections]
    base: Sequence[Detections]
    nbytes: npt.NDArray[np.int64]
    base_ms: Milliseconds
    picture_ms: Milliseconds
    encode_ms: Milliseconds
    meter: Meter = field(default_factory=Meter)

    def __len__(self) -> int:
        return len(self.frames)
