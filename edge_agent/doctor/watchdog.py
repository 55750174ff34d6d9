"""The watchdog: ends a process in which a model hangs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cachenet.edge_agent.camera import Camera
from cachenet.edge_agent.updates.loader import ModelLoader
from cachenet.shared.command.supervision import SupervisedThread, end_process

#: Time beyond the deadline after which a frame counts as hanging, seconds.
HANG_TIMEOUT_S = 60.0


class Watchdog:
    """Checks every second that cameras and loader make progress, and ends the process if a model hangs.

    A thread that runs a hanging model cannot be ended alone. The service manager restarts the agent, with the previous
    set if a newer one was on trial.
    """

    def __init__(
        self,
        cameras: Callable[[], Sequence[Camera]],
        loader: ModelLoader,
        abandon: Callable[[str], None],
        end: Callable[[str], None] = end_process,
    ) -> None:
        """
        Args:
            cameras: Returns the cameras of the agent.
            abandon: Called with the reason before ``end``.
            end: Ends the process.
        """
        self._cameras, self._loader, self._abandon, self._end = cameras, loader, abandon, end
        #: By title of the camera: the frame that was decided at the last check, and the number of checks since then.
        self._last_check: dict[str, tuple[int | None, int]] = {}
        self._thread = SupervisedThread("watchdog", self._step)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stopping.set()

    def _step(self) -> None:
        if self._thread.stopping.wait(1.0):
            return
        if reason := self.check():
            self._abandon(reason)
            self._end(reason)

    def check(self) -> str:
        """Check once; returns which model hangs, or an empty string."""
        for camera in self._cameras():
            limit = HANG_TIMEOUT_S * camera.settings.slowdown + camera.settings.deadline_ms / 1000
            deciding = camera.deciding
            frame, checks = self._last_check.get(camera.title, (None, 0))
            # Checks are counted, because the clock goes on while the process is suspended.
            checks = checks + 1 if deciding is not None and deciding == frame else 0
            self._last_check[camera.title] = deciding, checks
            if checks > limit:
                return f"{camera.title or 'the camera'} has been deciding frame {frame} for {checks} s: a model hangs"
        return f"{self._loader.hanging_model} hangs while it is being loaded" if self._loader.hanging_model else ""
