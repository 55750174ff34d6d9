"""Results over MQTT, for other subscribers than the server.

A changed label, or changed numbers of objects, are published at once, but at least 0.2 s after the result before; an
unchanged answer every ten seconds. This rate keeps the load of the broker low with many cameras. ``--output`` has every
answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.shared.transport import protocol

#: Least time between two results of a camera, seconds.
_MIN_PERIOD_S = 0.2
#: Longest time between two results of a camera that answers, seconds.
_MAX_PERIOD_S = 10.0
#: Length of the exponential averages, frames; of fewer frames, the plain mean.
_AVERAGE_FRAMES = 1000


class Result(AnswerLine, kw_only=True):
    """An answer, and recent averages: share of frames answered on the device, and latency in milliseconds."""

    local_share: float
    mean_latency_ms: float


@dataclass
class _Camera:
    """State of a camera or zone. ``shown``: the published label or counts; None before the first."""

    topic: str
    frames: int = 0
    share: float = 0.0
    latency_ms: float = 0.0
    shown: object = None
    published: float = 0.0

    def count(self, answered: AnsweredFrame) -> None:
        self.frames = min(self.frames + 1, _AVERAGE_FRAMES)
        self.share += (answered.answer.hit - self.share) / self.frames
        self.latency_ms += (answered.line.latency_ms - self.latency_ms) / self.frames


class Results:
    """Observer that publishes results as JSON."""

    def __init__(
        self, publish: Callable[[str, bytes], bool], device: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``publish``: sends a payload to a topic without waiting, and returns whether it was sent."""
        self._publish, self._device, self._clock = publish, device, clock
        self._cameras: dict[tuple[str, str], _Camera] = {}
        self._encode = msgspec.json.Encoder().encode

    def on_frame(self, answered: AnsweredFrame) -> None:
        """Publish the result of a frame if one is due; called by the hot loop."""
        line = answered.line
        camera = self._cameras.get((line.camera, line.zone))
        if camera is None:
            camera = _Camera(topic(self._device, line.camera, line.zone))
            self._cameras[line.camera, line.zone] = camera
        camera.count(answered)
        now = self._clock()
        answer = line.label if line.counts is None else (line.counts, line.zone_counts)
        period = _MIN_PERIOD_S if answer != camera.shown else _MAX_PERIOD_S
        if camera.shown is not None and now - camera.published < period:
            return
        result = Result(
            **msgspec.structs.asdict(line),
            local_share=round(camera.share, 4),
            mean_latency_ms=round(camera.latency_ms, 2),
        )
        camera.published = now
        if self._publish(camera.topic, self._encode(result)):
            camera.shown = answer


def topic(device: str, camera: str, zone: str = "") -> str:
    """``cachenet/<version>/<device>/result``, with ``/<camera>`` for one of several cameras and ``/<zone>`` for the
    zone of a classifier."""
    return protocol.topic(device, "result", *filter(None, [camera, zone]))
