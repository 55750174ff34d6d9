"""A worker thread for answered frames, so that a disk or an encoder does not delay the hot loop."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable

from cachenet.edge_agent.camera import AnsweredFrame

log = logging.getLogger(__name__)

#: Capacity of the queue, frames: enough for a flush to a memory card, few enough for a small device's memory.
_CAPACITY = 4
#: Longest time to finish the queue at the end of the run, seconds.
_CLOSE_TIMEOUT_S = 10.0


class FrameWorker:
    """Calls ``work`` with one frame after the other, in another thread."""

    def __init__(self, name: str, work: Callable[[AnsweredFrame], None], blocks: bool) -> None:
        """``blocks``: whether the hot loop waits for a slow ``work``, as for a file; otherwise frames are dropped."""
        #: Frames without space in the queue, and frames for which ``work`` raised an exception.
        self.dropped = self.failed = 0
        self._work, self._blocks = work, blocks
        self._queue: queue.Queue[AnsweredFrame | None] = queue.Queue(_CAPACITY)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def on_frame(self, answered: AnsweredFrame) -> None:
        """Queue a frame; called by the hot loop."""
        try:
            self._queue.put(answered, block=self._blocks)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Finish the queue, within ten seconds."""
        end = time.monotonic() + _CLOSE_TIMEOUT_S
        with contextlib.suppress(queue.Full):  # the disk hangs
            self._queue.put(None, timeout=_CLOSE_TIMEOUT_S)
        self._thread.join(max(0.0, end - time.monotonic()))
        if self.dropped:
            log.warning("%s was too slow and dropped %d frames", self._thread.name, self.dropped)

    def _run(self) -> None:
        while (answered := self._queue.get()) is not None:
            self._process(answered)

    def _process(self, answered: AnsweredFrame) -> None:
        try:
            self._work(answered)
        except Exception:  # without this, a blocked hot loop would wait for ever
            self.failed += 1
            log.exception("%s failed for a frame", self._thread.name)
