"""Refreshes the caches between layers beside the answering: in a process of its own that gets what processor time
nobody else wants."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np

from cachenet.cloud_server.refresh import Row, Terms, Window, refresh
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.inference.early_exit import Correction, EarlyExitModel, ExitFeatures, ExitResult

log = logging.getLogger(__name__)

#: Rows that must be there before the first refresh, and that are new before the next.
_ENOUGH, _NEWS = 512, 256
_LOOK_S = 1.0


class Refresher:
    """Hears what ran through the whole model, on the worker's thread, and corrects the caches of ``layers`` on its
    own."""

    def __init__(self, layers: EarlyExitModel, wrong: float) -> None:
        """``wrong``: the share of requests that all caches together may answer otherwise than the whole model."""
        self._layers, self._wrong = layers, wrong
        self._window = Window(random.Random().random)
        self._done = 0
        self._lock = threading.Lock()
        self._thread = SupervisedThread("refresher", self._work, give_up=_give_up)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.stop(_LOOK_S)

    def hear(self, passed: ExitResult) -> None:
        """A request has been answered."""
        if passed.layer is None and passed.seen and np.isfinite(passed.logits).all():
            # Copies, for what was seen is part of a whole batch.
            seen = {at: ExitFeatures(*(part.copy() for part in own)) for at, own in passed.seen.items()}
            row = Row(seen, int(passed.logits.argmax()), passed.weight)
            with self._lock:
                self._window.add(row)

    def terms(self) -> dict[int, Terms]:
        """What corrections must keep to, for the caches as they are."""
        caches = self._layers.caches
        each = self._wrong / len(caches)
        return {
            number: Terms(cache.layer.temperature, cache.layer.threshold, each, cache.correction)
            for number, cache in enumerate(caches)
        }

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
        if not self._thread.stopping.wait(_LOOK_S) and self.due():
            found = self._learn(*self.snapshot())
            if found:
                self._layers.correct(found)
                log.info("%d of %d caches between layers corrected", len(found), len(self._layers.caches))

    def _learn(self, recent: list[Row], ever: list[Row]) -> dict[int, Correction]:
        """What is learned, in a process of its own, which ends with this one; nothing if it fails."""
        context = get_context("spawn")
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_refresh, args=(there, recent, ever, self.terms()), daemon=True)
        try:
            process.start()
            there.close()
            while not here.poll(_LOOK_S):
                if self._thread.stopping.is_set():
                    return {}
            found: dict[int, Correction] = here.recv()
            return found
        except (EOFError, OSError) as error:
            log.error("the caches between layers were not refreshed: %s", error or "the process failed")
            return {}
        finally:
            if process.is_alive():
                process.terminate()
            here.close()


def _refresh(out: Connection, recent: list[Row], ever: list[Row], terms: dict[int, Terms]) -> None:
    """In its own process: Ctrl-C is for the one that started it, which ends this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(19)
    out.send(refresh(recent, ever, terms))


def _give_up(why: str) -> None:
    """The server answers without this thread, so that the process goes on."""
    log.error("%s; the caches between layers are no longer refreshed until the server is started again", why)
