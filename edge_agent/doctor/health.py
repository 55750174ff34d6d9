"""Whether an agent answers its cameras, for ``/health`` and for the age of the last answer in ``/metrics``."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.camera import Answered, Camera
from cachenet.edge_agent.remote import POSTED

#: For how long a camera of a usual pace may go without an answered frame, seconds: so that ``/health`` says 503 before
#: ten seconds are over.
SILENCE_LIMIT_S = 8.0
#: A slower camera may go without for this many times the median of its last gaps between two frames.
_GAPS, _PERIODS = 9, 3.0
#: Answers that are looked at, and how many there must be before all of them being fallbacks is a fault.
RECENT_ANSWERS, MIN_ANSWERS = 100, 10


@dataclass
class FrameTiming:
    """How one camera's frames have come and were answered. ``last``: when the last one was answered, or when the agent
    began; ``period``: seconds between two frames where the user says it, 0 where not."""

    last: float
    period: float = 0.0
    begun: bool = False
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=_GAPS))
    #: Of the last answers, whether each was a fallback that nobody corrects.
    fallbacks: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT_ANSWERS))

    def add(self, now: float, fallback: bool) -> None:
        """Take in an answered frame."""
        if self.begun:
            self.gaps.append(now - self.last)
        self.begun, self.last = True, now
        self.fallbacks.append(fallback)

    @property
    def limit(self) -> float:
        """Seconds without an answered frame that are a fault."""
        gaps = list(self.gaps)
        return max(SILENCE_LIMIT_S, _PERIODS * max(self.period, statistics.median(gaps) if gaps else 0.0))

    @property
    def only_fallbacks(self) -> int:
        """How many answers there were lately, if all of them were fallbacks; 0 otherwise."""
        last = list(self.fallbacks)
        return len(last) if len(last) >= MIN_ANSWERS and all(last) else 0


class Health:
    """Hears of every answered frame, and says what is wrong.

    Wrong is: a camera has no model to be answered with; it is gone; it has had no answered frame for 8 s, or for three
    times the pace that it keeps where that is longer; its last answers, 10 to 100, were all fallbacks; the link to the
    broker is down. The pace is ``--fps`` where that is given, and else the median of the last nine gaps, which one long
    gap does not change. A camera of one frame a minute is therefore well, from its second frame on without ``--fps``.
    """

    def __init__(self, agent: Agent, clock: Callable[[], float] = time.monotonic) -> None:
        self._agent, self._clock = agent, clock
        begun = clock()
        self._paces = {
            camera.name: FrameTiming(begun, 1.0 / camera.settings.fps if camera.settings.fps else 0.0)
            for camera in agent.cameras
        }

    def on_frame(self, answered: Answered) -> None:
        """Take in an answered frame; from a hot loop."""
        fallback = answered.answer.level == "fallback" and not answered.answer.reason.endswith(POSTED)
        self._paces[answered.line.camera].add(self._clock(), fallback)

    def ages(self) -> dict[str, float]:
        """Seconds since the last answered frame of each camera, or since the agent began."""
        now = self._clock()
        return {name: now - pace.last for name, pace in self._paces.items()}

    def __call__(self) -> str:
        """Why it is not well; empty if it is."""
        faults = [
            f"{camera.name}: {why}" if camera.name else why
            for camera in self._agent.cameras
            for why in self._faults(camera)
        ]
        if self._agent.link is not None and (error := self._agent.link.trouble) and error not in " ".join(faults):
            faults.append(error)
        return "; ".join(faults)

    def _faults(self, camera: Camera) -> Iterable[str]:
        pace = self._paces[camera.name]
        if camera.cascade is None:
            yield f"waiting for a model: {self._agent.trouble or 'it is on its way'}"
            return
        silent_s = self._clock() - pace.last
        if error := camera.source.error:
            yield f"the camera has a fault: {trouble}"
        elif silent_s > pace.limit:
            yield f"no frame for {silent_s:.0f} s; is the camera there?"
        if count := pace.only_fallbacks:
            yield f"the last {count} answers were all fallbacks"
