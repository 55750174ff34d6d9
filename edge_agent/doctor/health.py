"""Health of an agent, for ``/health``, and the age of the last answer, for ``/metrics``."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera import AnsweredFrame, Camera
from cachenet.edge_agent.remote import POSTED

#: Longest time without an answered frame, seconds, unless the camera is slow: ``/health`` is 503 within ten seconds.
SILENCE_LIMIT_S = 8.0
#: Number of recent gaps between two frames whose median is the period of a camera.
_GAPS = 9
#: Longest time without an answered frame of a slow camera, periods.
_PERIODS = 3.0
#: Number of recent answers that are checked for fallbacks.
RECENT_ANSWERS = 100
#: Least number of answers that are a fault if all of them are fallbacks.
MIN_ANSWERS = 10


@dataclass
class FrameTiming:
    """Times of the answered frames of one camera.

    Attributes:
        last: Time of the last answer, or of the start of the agent, seconds.
        period: Time between two frames by the settings, seconds; 0: unknown.
        fallbacks: For each recent answer, whether it was a fallback without a pending correction.
    """

    last: float
    period: float = 0.0
    begun: bool = False
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=_GAPS))
    fallbacks: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT_ANSWERS))

    def add(self, now: float, fallback: bool) -> None:
        """Record an answered frame."""
        if self.begun:
            self.gaps.append(now - self.last)
        self.begun, self.last = True, now
        self.fallbacks.append(fallback)

    @property
    def limit(self) -> float:
        """Seconds without an answered frame after which the camera has a fault."""
        gaps = list(self.gaps)
        return max(SILENCE_LIMIT_S, _PERIODS * max(self.period, statistics.median(gaps) if gaps else 0.0))

    @property
    def only_fallbacks(self) -> int:
        """Number of recent answers if all of them were fallbacks; 0 otherwise."""
        last = list(self.fallbacks)
        return len(last) if len(last) >= MIN_ANSWERS and all(last) else 0


class Health:
    """Observes every answered frame, and lists faults.

    Faults are: a camera without a model; a lost camera; no answered frame for 8 s or three periods, whichever is
    longer; only fallbacks among the last 10 to 100 answers; no connection to the broker; a server of another version of
    the protocol; no fresh metadata of a signed bundle. The period is ``1 / --fps``, or else the median of the last nine
    gaps.
    """

    def __init__(self, agent: Agent, clock: Callable[[], float] = time.monotonic) -> None:
        self._agent, self._clock = agent, clock
        self._begun = clock()
        #: By name of the camera and of its zone.
        self._timings: dict[tuple[str, str], FrameTiming] = {}

    def on_frame(self, answered: AnsweredFrame) -> None:
        """Record an answered frame; called by the hot loop."""
        fallback = answered.answer.level == "fallback" and not answered.answer.reason.endswith(POSTED)
        self._timing(answered.line.camera, answered.line.zone).add(self._clock(), fallback)

    def ages(self) -> dict[tuple[str, str], float]:
        """Seconds since the last answered frame of each camera and zone, or since the agent began."""
        now = self._clock()
        keys = [(camera.name, camera.zone) for camera in self._agent.cameras]
        return {key: now - self._timing(*key).last for key in keys}

    def _timing(self, camera: str, zone: str) -> FrameTiming:
        if (timing := self._timings.get((camera, zone))) is None:
            own = next(loop.settings for loop in self._agent.loops if loop.name == camera)
            timing = FrameTiming(self._begun, 1.0 / own.fps if own.fps else 0.0)
            timing = self._timings.setdefault((camera, zone), timing)
        return timing

    def __call__(self) -> str:
        """All faults as one line; empty without a fault."""
        faults = [
            f"{camera.title}: {fault}" if camera.title else fault
            for camera in self._agent.cameras
            for fault in self._faults(camera)
        ]
        link = self._agent.link.error if self._agent.link is not None else ""
        if (error := link or self._agent.server_version.error) and error not in " ".join(faults):
            faults.append(error)
        if self._agent.signed is not None and self._agent.signed.stale:
            faults.append(self._agent.signed.stale)
        return "; ".join(faults)

    def _faults(self, camera: Camera) -> Iterable[str]:
        timing = self._timing(camera.name, camera.zone)
        if camera.cascade is None:
            yield f"waiting for a model: {self._agent.error or 'it is on its way'}"
            return
        silent_s = self._clock() - timing.last
        if error := camera.source.error:
            yield f"the camera has a fault: {error}"
        elif silent_s > timing.limit:
            yield f"no frame for {silent_s:.0f} s; is the camera there?"
        if count := timing.only_fallbacks:
            yield f"the last {count} answers were all fallbacks"
