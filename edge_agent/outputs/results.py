"""The answers over MQTT: for whoever wants to know what a camera sees now, not for the server.

A label that changes is told at once, or a fifth of a second after the one before; one that stays, every ten seconds, so
that whoever comes later need not wait long and silence means something. Thirty answers a second of a thousand cameras
would be work for the broker and news for nobody; all of them are what ``--output`` is for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from cachenet.edge_agent.camera import Answered
from cachenet.edge_agent.outputs.report import Line
from cachenet.shared.transport import protocol

#: Seconds between two results of a camera: at least, and at most while it answers.
_LEAST_S, _MOST_S = 0.2, 10.0
#: Frames that the averages are of, or all where there were fewer: the weight of a frame fades over as many.
_RECENT = 1000


class Result(Line, kw_only=True):
    """An answer, and how the device has been doing lately: the share of frames that it answered by itself, and how long
    frames took."""

    local_share: float
    mean_latency_ms: float


@dataclass
class _Camera:
    topic: str
    frames: int = 0
    share: float = 0.0
    latency_ms: float = 0.0
    label: str = ""
    told: float = 0.0

    def count(self, answered: Answered) -> None:
        self.frames = min(self.frames + 1, _RECENT)
        self.share += (answered.answer.hit - self.share) / self.frames
        self.latency_ms += (answered.line.latency_ms - self.latency_ms) / self.frames


class Results:
    """Publishes results as JSON."""

    def __init__(
        self, publish: Callable[[str, bytes], bool], device: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``publish`` takes a topic and a payload, does not wait, and says whether it went out."""
        self._publish, self._device, self._clock = publish, device, clock
        self._cameras: dict[str, _Camera] = {}
        self._encode = msgspec.json.Encoder().encode

    def on_frame(self, answered: Answered) -> None:
        """From the hot loop."""
        line = answered.line
        camera = self._cameras.get(line.camera)
        if camera is None:
            camera = self._cameras[line.camera] = _Camera(topic(self._device, line.camera))
        camera.count(answered)
        now = self._clock()
        if camera.label and now - camera.told < (_LEAST_S if line.label != camera.label else _MOST_S):
            return
        result = Result(
            **msgspec.structs.asdict(line),
            local_share=round(camera.share, 4),
            mean_latency_ms=round(camera.latency_ms, 2),
        )
        camera.told = now
        if self._publish(camera.topic, self._encode(result)):
            camera.label = line.label


def topic(device: str, camera: str) -> str:
    """``cachenet/1/<device>/result``, or one below it for a camera of several."""
    return protocol.topic(device, "result", *filter(None, [camera]))
