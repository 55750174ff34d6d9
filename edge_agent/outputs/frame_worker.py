"""Work with answered frames that a disk or an encoder may hold up, on a thread beside the hot loop."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable

from cachenet.edge_agent.camera import Answered

log = logging.getLogger(__name__)

#: Frames that may wait: enough to bridge a flush to a memory card, few enough for a small device's memory.
_WAITING = 4
#: How long the rest may take when the run has ended.
_PATIENCE_S = 10.0


class FrameWorker:
    """Gives every frame to ``work``, one after the other. Where ``waits``, none is left out and a slow ``work`` slows
    the loop, as is right for a file; otherwise the loop goes on and what there is no room for is ``left_out``. Frames
    that ``work`` raised for are counted in ``failed``."""

    def __init__(self, name: str, work: Callable[[Answered], None], waits: bool) -> None:
        self.dropped = self.failed = 0
        self._work, self._waits = work, waits
        self._queue: queue.Queue[Answered | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def on_frame(self, answered: Answered) -> None:
        """From the hot loop."""
        try:
            self._queue.put(answered, block=self._waits)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Finish what waits, within ten seconds."""
        end = time.monotonic() + _PATIENCE_S
        with contextlib.suppress(queue.Full):  # a disk that hangs
            self._queue.put(None, timeout=_PATIENCE_S)
        self._thread.join(max(0.0, end - time.monotonic()))
        if self.dropped:
            log.warning("%s was too slow for %d frames, and left them out", self._thread.name, self.dropped)

    def _run(self) -> None:
        while (answered := self._queue.get()) is not None:
            self._take(answered)

    def _take(self, answered: Answered) -> None:
        try:
            self._work(answered)
        except Exception:  # or whoever waits for room would wait for ever
            self.failed += 1
            log.exception("%s left out a frame", self._thread.name)
