"""Refreshes the caches between layers beside the answering: in a process of its own that gets what processor time
nobody else wants."""

from __future__ import annotations

import logging
import os
import random
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from cloud_server.refresh import Row, Terms, Window, refresh
from shared.layered import Layered, Passed

log = logging.getLogger(__name__)

#: Rows that must be there before the first refresh, and that are new before the next.
_ENOUGH, _NEWS = 512, 256
_LOOK_S = 1.0


class Refresher:
    """Hears what ran through the whole model, on the worker's thread, and corrects the caches of ``layers`` on its
    own."""

    def __init__(self, layers: Layered, wrong: float) -> None:
        """``wrong``: the share of a cache's answers that may be wrong."""
        self._layers, self._wrong = layers, wrong
        self._window = Window(random.Random().random)
        self._done = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="refresher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(_LOOK_S)

    def hear(self, passed: Passed) -> None:
        """A request has been answered."""
        if passed.layer is None and passed.seen:
            with self._lock:
                self._window.add(Row(passed.seen, int(passed.logits.argmax()), passed.weight))

    def terms(self) -> dict[int, Terms]:
        """What corrections must keep to, for the caches as they are."""
        caches = enumerate(self._layers.caches)
        return {number: Terms(cache.temperature, cache.layer.threshold, self._wrong) for number, cache in caches}

    def due(self) -> bool:
        """Whether enough has been heard since the last time."""
        with self._lock:
            return self._window.count >= max(_ENOUGH, self._done + _NEWS)

    def snapshot(self) -> tuple[list[Row], list[Row]]:
        """What is to be learned from now."""
        with self._lock:
            self._done = self._window.count
            return self._window.rows()

    def _work(self) -> None:
        while not self._stopped.wait(_LOOK_S):
            if not self.due():
                continue
            recent, ever = self.snapshot()
            try:
                with ProcessPoolExecutor(1, get_context("spawn"), os.nice, (19,)) as pool:
                    found = pool.submit(refresh, recent, ever, self.terms()).result()
            except (BrokenProcessPool, OSError) as error:
                log.error("the caches between layers were not refreshed: %s", error)
                continue
            if found:
                self._layers.correct(found)
                log.info("%d of %d caches between layers corrected", len(found), len(self._layers.caches))
