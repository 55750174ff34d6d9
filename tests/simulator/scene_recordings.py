"""Recordings of synthetic scenes, and networks that are quick or slow."""

from __future__ import annotations

import msgspec
import numpy as np

from cachenet.shared.cascade.detect.detections import NOTHING, Detections
from cachenet.shared.cascade.detect.scene_replay import SceneTrace
from cachenet.shared.cascade.detect.types import SceneFrame
from cachenet.simulator.policies.scene_run import Network
from cachenet.simulator.traces.scene_recording import Meter, RecordedFlow, SceneRecording
from cachenet.simulator.world.link_profiles import LinkProfile
from tests.shared.cascade.detect.scenes import boxes, frame, shifted

#: Time of a run of the device's detector, milliseconds.
BASE_MS = 5.0


def recording_of(trace: SceneTrace, fps: float = 10.0, nbytes: int = 10_000) -> SceneRecording:
    """The recording of a trace; pictures take no time."""
    meter, nothing = Meter(), np.zeros(len(trace))

    def recorded(one: SceneFrame) -> SceneFrame:
        return msgspec.structs.replace(one, flow=None if one.flow is None else RecordedFlow(one.flow, meter))

    return SceneRecording(
        fps=fps,
        frames=[recorded(one) for one in trace.frames],
        full=trace.full,
        base=trace.base,
        nbytes=np.full(len(trace), nbytes),
        base_ms=nothing + BASE_MS,
        picture_ms=nothing,
        encode_ms=nothing,
        meter=meter,
    )


def still(frames: int, objects: Detections, base: Detections = NOTHING) -> SceneRecording:
    """A scene in which nothing moves."""
    all_frames = [frame(index, shifted(0.0), moved=False) for index in range(frames)]
    return recording_of(SceneTrace(all_frames, [objects] * frames, [base] * frames))


def walking(frames: int, step: float = 0.01) -> SceneRecording:
    """Two objects that move to the right by ``step`` a frame; the device's detector finds neither."""
    full = [
        boxes((0.1 + step * at, 0.2, 0.14 + step * at, 0.4), (0.3 + step * at, 0.5, 0.34 + step * at, 0.7))
        for at in range(frames)
    ]
    all_frames = [frame(index, shifted(step)) for index in range(frames)]
    return recording_of(SceneTrace(all_frames, full, [NOTHING] * frames))


def network(delay_s: float = 0.0, mbit: float = 1e6) -> Network:
    """A link without jitter whose replies arrive after ``delay_s`` seconds, plus the time of sending a picture."""
    return Network(LinkProfile(0.0, 0.0, mbit, mbit, 0.0, 0.0), delay_s)
