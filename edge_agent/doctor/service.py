"""What systemd is told of an agent: that it is ready, that it makes progress, and its health."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.doctor.health import Health
from cachenet.shared.command.service_manager import ServiceManager
from cachenet.shared.command.supervision import SupervisedThread, ended_threads
from cachenet.shared.command.text import printable

#: Time after which an agent without an answer is ready all the same, seconds: it waits for a camera, a broker or
#: models, and would wait for them again after another start.
READY_S = 30.0
#: Time between two steps, seconds, unless the pings of the watchdog must be more frequent.
_STEP_S = 1.0


class ServiceReport:
    """Tells the service manager the state of the agent.

    Pings of the watchdog say that the process can make progress, not that it is healthy. They end while a camera works
    on the frame of the ping before, after a camera has ended by an error, and after a thread has ended. They go on
    without a camera's frames, a broker, a server or models: another start does not bring them.
    """

    def __init__(
        self, agent: Agent, health: Callable[[], str], manager: ServiceManager, clock: Callable[[], float]
    ) -> None:
        """``health``: returns the faults of the agent as one line; empty for none."""
        self._agent, self._health, self._manager, self._clock = agent, health, manager, clock
        self._ready_at, self._ping_at = clock() + READY_S, clock()
        self._ready = False
        self._status = ""
        #: By name of the camera: the frame that was being answered at the last ping; None between two frames.
        self._at_ping: dict[str, int | None] = {}

    def step(self) -> None:
        """Send what is due; what the service manager cannot take now is sent with the next step."""
        now, due = self._clock(), []
        frames = {loop.name: loop.answering for loop in self._agent.loops}
        ready = self._ready or now >= self._ready_at or any(loop.frames for loop in self._agent.loops)
        if ready and not self._ready:
            due.append("READY=1")
        ping = self._manager.watchdog_s > 0 and now >= self._ping_at
        blocked = self.blocked() if ping else ""
        ping = ping and not blocked
        if ping:
            due.append("WATCHDOG=1")
        if (status := blocked or self._health() or "answering") != self._status:
            due.append(f"STATUS={printable(status)}")
        if due and self._manager.send(*due):
            self._ready, self._status = ready, status
            if ping:
                self._ping_at, self._at_ping = now + self._manager.watchdog_s / 2, frames

    def blocked(self) -> str:
        """Why the process makes no progress, which a start may mend; empty if it does."""
        for loop in self._agent.loops:
            name = f"camera {loop.name}" if loop.name else "the camera"
            if loop.failed:
                return f"{name} has ended by an error"
            if loop.answering is not None and loop.answering == self._at_ping.get(loop.name):
                return f"{name} does not finish frame {loop.answering}"
        if ended := ended_threads():
            return f"thread {', '.join(ended)} has ended"
        return ""


@contextmanager
def reporting(agent: Agent, manager: ServiceManager) -> Iterator[None]:
    """Report the state of the agent to the service manager while the block runs."""
    health = Health(agent)
    agent.observers.append(health.on_frame)
    report = ServiceReport(agent, health, manager, time.monotonic)
    interval_s = min(_STEP_S, manager.watchdog_s / 4 or _STEP_S)

    def work() -> None:
        if not thread.stopping.wait(interval_s):
            report.step()

    thread = SupervisedThread("service-report", work)
    thread.start()
    try:
        yield
    finally:
        thread.stop(_STEP_S)
        manager.send("STOPPING=1")
