"""Run a policy for detectors over a recording, with replies that arrive as late as the link has them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from cachenet.shared.cascade.detect.detections import Detections, counts, object_errors, pooled_f1
from cachenet.shared.cascade.types import Level
from cachenet.simulator.policies.scene import Device, Maker
from cachenet.simulator.traces.scene_recording import Meter, SceneRecording
from cachenet.simulator.world.link_profiles import LinkProfile
from cachenet.simulator.world.remote_detector import RemoteDetector

Counts = npt.NDArray[np.int64]
_R = TypeVar("_R")


@dataclass(frozen=True)
class Network:
    """Link and server of a run; ``server_s``: time of an answer, seconds; ``seed``: of the link's jitter and losses."""

    link: LinkProfile
    server_s: float
    seed: int = 0


@dataclass(frozen=True, eq=False)
class PolicyRun:
    """Answers of a device at the moment of each of ``n`` frames.

    Attributes:
        answers: The objects ``(n)``.
        levels: Level of each answer ``(n)``.
        counts: True positives, false positives and false negatives against the full model ``(n, 3)``.
        asked: Whether the full model was asked about the frame, audits included ``(n,)``.
        device_ms: Work of the device for the frame: models, motion, decision, encoding, milliseconds ``(n,)``.
        kb_up_s: Kilobytes a second that the device sends.
        delays: Frames from each question to its reply.
    """

    answers: list[Detections]
    levels: list[Level]
    counts: Counts
    asked: npt.NDArray[np.bool_]
    device_ms: npt.NDArray[np.float64]
    kb_up_s: float
    delays: list[int]

    @property
    def streaming_f1(self) -> float:
        """F1 of the counts of all frames."""
        return pooled_f1(self.counts)

    @cached_property
    def errors(self) -> npt.NDArray[np.float64]:
        """Object error of each frame, 1 - F1 ``(n,)``."""
        return object_errors(self.counts)

    @property
    def asked_share(self) -> float:
        return float(self.asked.mean())


class _Timer:
    """Time of a policy's calls on a device: that of this process, with motion as it was measured."""

    def __init__(self, meter: Meter) -> None:
        self._meter, self._seconds = meter, 0.0
        meter.take()

    def call(self, method: Callable[..., _R], *arguments: object) -> _R:
        begun = time.perf_counter()
        result = method(*arguments)
        self._seconds += time.perf_counter() - begun
        return result

    def take_ms(self) -> float:
        """Time since the last reading, milliseconds."""
        recorded, spent = self._meter.take()
        seconds, self._seconds = self._seconds, 0.0
        return 1000 * (seconds - spent + recorded)


def run(make: Maker, recording: SceneRecording, network: Network) -> PolicyRun:
    """Run a new policy over a recording.

    A frame's reply is that frame's recorded objects of the full model. Replies that have arrived by the moment of a
    frame are received before its answer.
    """
    device = Device(recording)
    policy, server = make(device), RemoteDetector(network.link, network.server_s, network.seed)
    timer = _Timer(recording.meter)
    answers: list[Detections] = []
    levels: list[Level] = []
    asked, device_ms, tallies, delays = [], [], [], []

    def receive(frame: int, now: float) -> None:
        for answered in server.arrived(now):
            delays.append(frame - answered)
            timer.call(policy.receive, answered, recording.full[answered])

    for frame in range(len(recording)):
        now = frame / recording.fps
        receive(frame, now)
        sent = timer.call(policy.asks, frame) and server.send(
            frame, int(recording.nbytes[frame]), len(recording.full[frame]), now
        )
        if sent:
            timer.call(policy.sent, frame)
            receive(frame, now)
        objects, level = timer.call(policy.answer, frame)
        device_ms.append(timer.take_ms() + device.take_ms() + sent * float(recording.encode_ms[frame]))
        answers.append(objects)
        levels.append(level)
        asked.append(sent)
        tallies.append(counts(objects, recording.full[frame]))
    kb_up_s = server.bytes_up / 1000 / (len(recording) / recording.fps)
    asked_frames = np.array(asked, np.bool_)
    return PolicyRun(answers, levels, np.array(tallies, np.int64), asked_frames, np.array(device_ms), kb_up_s, delays)
