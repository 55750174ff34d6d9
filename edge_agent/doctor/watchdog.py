"""The watchdog: ends a process in which a model hangs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cachenet.edge_agent.camera import Camera
from cachenet.edge_agent.updates.loader import ModelLoader
from cachenet.shared.command.supervision import SupervisedThread, end_process

#: A frame that is being decided for longer than this many seconds, beside its deadline, will never be.
HANG_TIMEOUT_S = 60.0


class Watchdog:
    """Looks every second whether cameras get on with their frames and the keeper with its models. A thread that runs a
    model which hangs cannot be ended by itself; whatever restarts the agent gets it going again, with the set before
    where a newer one is being tried."""

    def __init__(
        self,
        cameras: Sequence[Camera],
        loader: ModelLoader,
        abandon: Callable[[str], None],
        end: Callable[[str], None] = end_process,
    ) -> None:
        """``abandon`` is told the reason before the process ends; ``end`` ends it."""
        self._cameras, self._loader, self._abandon, self._end = cameras, loader, abandon, end
        #: By camera: the frame that it was deciding at the last look, and for how many looks that has been so.
        self._seen: dict[str, tuple[int | None, int]] = {}
        self._thread = SupervisedThread("watchdog", self._step)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stopping.set()

    def _step(self) -> None:
        if self._thread.stopping.wait(1.0):
            return
        if reason := self.look():
            self._abandon(reason)
            self._end(reason)

    def look(self) -> str:
        """Look once; which model hangs, for a person, or an empty string."""
        for camera in self._cameras:
            limit = HANG_TIMEOUT_S * camera.settings.slowdown + camera.settings.deadline_ms / 1000
            deciding = camera.deciding
            frame, looks = self._seen.get(camera.name, (None, 0))
            # Looks are counted, for the clock goes on where the whole process is stopped.
            looks = looks + 1 if deciding is not None and deciding == frame else 0
            self._seen[camera.name] = deciding, looks
            if looks > limit:
                return f"{camera.name or 'the camera'} has been deciding frame {frame} for {looks} s: a model hangs"
        return f"{self._keeper.stuck} hangs while it is being loaded" if self._loader.hanging_model else ""
