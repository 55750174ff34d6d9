"""Snapshots over MQTT: the picture of a detector's camera, drawn and published when its counts of objects change."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import cv2

from cachenet.edge_agent.camera import AnsweredFrame
from cachenet.edge_agent.outputs.drawing import annotate
from cachenet.edge_agent.outputs.frame_worker import FrameWorker
from cachenet.edge_agent.outputs.report import View
from cachenet.shared.inference.image import Picture
from cachenet.shared.transport import protocol

#: Least time between two snapshots of a camera, seconds: a picture is a thousand times the size of a result.
_MIN_PERIOD_S = 2.0
#: Longer side to which a larger picture is reduced, pixels.
_MAX_SIDE = 640
#: Largest snapshot, bytes.
_MAX_BYTES = 256 << 10
#: JPEG qualities, tried until a snapshot is small enough. Noise at 20 has 90 kB.
_QUALITIES = (80, 50, 20)


class Snapshots:
    """Observer that publishes snapshots. A thread of its own draws them; the hot loop does not wait."""

    def __init__(
        self,
        publish: Callable[[str, bytes], bool],
        device: str,
        views: Mapping[str, View],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            publish: Sends a payload to a topic without waiting, and returns whether it was sent.
            views: Region and zones by camera name.
        """
        self._publish, self._device, self._views, self._clock = publish, device, views, clock
        #: Time and counts of the last snapshot by camera.
        self._last: dict[str, tuple[float, Any]] = {}
        self._worker = FrameWorker("snapshots", self._send, blocks=False)

    def on_frame(self, answered: AnsweredFrame) -> None:
        """Queue a frame if a snapshot is due; called by the hot loop."""
        line, now = answered.line, self._clock()
        if line.counts is None:
            return
        counts = (line.counts, line.zone_counts)
        last = self._last.get(line.camera)
        if last is not None and (now - last[0] < _MIN_PERIOD_S or counts == last[1]):
            return
        self._last[line.camera] = now, counts
        self._worker.on_frame(answered)

    def renew(self) -> None:
        """Publish the next frame of every camera, for a reader that has just started."""
        self._last.clear()

    def close(self) -> None:
        """Finish the queue."""
        self._worker.close()

    def _send(self, answered: AnsweredFrame) -> None:
        data = jpeg(annotate(_small(answered.picture), answered.lines, self._views[answered.line.camera]))
        camera = answered.line.camera
        if not self._publish(topic(self._device, camera), data) and (last := self._last.get(camera)) is not None:
            self._last[camera] = last[0], None  # once more, after the least time


def topic(device: str, camera: str) -> str:
    """``cachenet/<version>/<device>/snapshot``, with ``/<camera>`` for one of several cameras."""
    return protocol.topic(device, "snapshot", *filter(None, [camera]))


def jpeg(drawn: Picture) -> bytes:
    """``drawn`` as JPEG of limited size."""
    data = b""
    for quality in _QUALITIES:
        data = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= _MAX_BYTES:
            break
    return data


def _small(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    factor = _MAX_SIDE / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
