"""Recent frames by device, and which device has enough of them for a training.

Pure: the clock comes from outside, and the caller locks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cachenet.shared.transport.protocol import DetectionAnswer
from cachenet.shared.transport.recent_frames import RecentFrame, RecentFrames

#: Least number of frames of a training, and of new frames after an attempt. The proof has six blocks of eight frames
#: then, one more than a proof needs at least.
MIN_FRAMES = 150
#: The same of a detector, which learns from each object of a frame.
MIN_DETECTOR_FRAMES = 80
#: Largest number of frames of a training.
MAX_FRAMES = 1200
#: Least time between two attempts for a device, seconds.
RETRY_S = 3600.0


@dataclass
class _Device:
    """Frames of a device, oldest first, and how many of them are new since its last attempt."""

    frames: deque[RecentFrame] = field(default_factory=deque)
    bytes: int = 0
    new: int = 0

    @property
    def is_enough(self) -> bool:
        """Whether the new frames are enough for a training."""
        detects = bool(self.frames) and isinstance(self.frames[-1].answer, DetectionAnswer)
        return self.new >= (MIN_DETECTOR_FRAMES if detects else MIN_FRAMES)

    def drop_oldest(self) -> int:
        """Drop the oldest frame; return the size of its picture."""
        size = len(self.frames.popleft().picture)
        self.bytes -= size
        self.new = min(self.new, len(self.frames))
        return size


class RequestHistory:
    """The latest frames of each device, within a bound on the bytes of all pictures."""

    def __init__(self, clock: Callable[[], float], bound: int) -> None:
        """Create an empty history.

        Args:
            clock: Returns the time, seconds.
            bound: Largest total size of the pictures, bytes.
        """
        self._clock, self._bound = clock, bound
        self._devices: dict[str, _Device] = {}
        self._bytes = 0
        self._tried: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(len(device.frames) for device in self._devices.values())

    def add(self, frame: RecentFrame) -> None:
        """Add a frame, unless its picture is that of the frame before, as of a frozen camera.

        Beyond the bound, the device with the most bytes loses its oldest frames.
        """
        device = self._devices.setdefault(frame.device, _Device())
        if device.frames and device.frames[-1].picture == frame.picture:
            return
        device.frames.append(frame)
        device.bytes += len(frame.picture)
        device.new += 1
        self._bytes += len(frame.picture)
        if len(device.frames) > MAX_FRAMES:
            self._bytes -= device.drop_oldest()
        while self._bytes > self._bound:
            name, largest = max(self._devices.items(), key=lambda item: item[1].bytes)
            self._bytes -= largest.drop_oldest()
            if not largest.frames:
                del self._devices[name]

    def due(self) -> RecentFrames | None:
        """Frames of the device with the most new frames, if a training for it is due; this counts as an attempt.

        A training is due with ``MIN_FRAMES`` of the task since the last attempt, and ``RETRY_S`` after it.
        """
        now = self._clock()
        self._tried = {name: at for name, at in self._tried.items() if now - at < RETRY_S}
        ready = [name for name, own in self._devices.items() if own.is_enough and name not in self._tried]
        if not ready:
            return None
        name = max(ready, key=lambda name: self._devices[name].new)
        self._tried[name], self._devices[name].new = now, 0
        return RecentFrames((name,), tuple(self._devices[name].frames))
