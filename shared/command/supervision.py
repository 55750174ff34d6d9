"""Supervised threads: an exception never ends one in silence.

Example:
    thread = SupervisedThread("loader", load_next)   # load_next() waits for one task, does it and returns
    thread.start()
    ...
    thread.stop(timeout_s=1.0)
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable

from cachenet.shared.transport.backoff import Backoff

log = logging.getLogger(__name__)

#: Failures in a row after which a thread is given up. With the delays below they take half a minute.
MAX_FAILURES = 10
#: First and longest delay before the body is called again, seconds.
_BACKOFF_S = (0.1, 10.0)
#: Distinct messages that one thread logs; a body that never fails the same way twice must not fill a disk.
_MAX_MESSAGES = 100

_lock = threading.Lock()
_failures: Counter[str] = Counter()


def failures() -> dict[str, int]:
    """Failures of all supervised threads of this process since it started, by thread name; for ``/metrics``."""
    with _lock:
        return dict(_failures)


def end_process(why: str) -> None:
    """End the process at once with exit code 1, so that a service manager starts it again."""
    log.critical("%s; ending the process", why)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(1)


class SupervisedThread:
    """A thread that calls ``body`` again and again until ``stop``.

    ``body`` is one iteration of a loop: it waits for work, does it and returns. A return is progress. An exception of
    any kind is logged with its traceback (once per distinct message), counted, and followed by a delay that doubles up
    to 10 s. After ``max_failures`` exceptions in a row without a return, ``give_up`` is called with the reason and the
    thread ends.
    """

    def __init__(
        self,
        name: str,
        body: Callable[[], None],
        give_up: Callable[[str], None] = end_process,
        max_failures: int = MAX_FAILURES,
        backoff_s: tuple[float, float] = _BACKOFF_S,
    ) -> None:
        """``backoff_s``: the first and the longest delay, seconds."""
        self.name = name
        #: Set when the thread is to end; a body that waits should wait for this too.
        self.stopping = threading.Event()
        #: The last exception, as one line; empty when the last call of ``body`` returned.
        self.fault = ""
        self._body, self._give_up, self._max_failures = body, give_up, max_failures
        self._backoff = Backoff(*backoff_s)
        self._logged: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        with _lock:
            _failures[self.name] += 0  # so that metrics show the thread before it fails
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Have the thread end after the present call of ``body`` and wait for that. False if it still runs."""
        self.stopping.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self.stopping.is_set():
            self._call()

    def _call(self) -> None:
        try:
            self._body()
        except BaseException as error:  # a panic in Rust code and SystemExit are no ``Exception``
            self._failed(error)
        else:
            self.fault = ""
            self._backoff.reset()

    def _failed(self, error: BaseException) -> None:
        self.fault = traceback.format_exception_only(error)[-1].splitlines()[0][:300]
        with _lock:
            _failures[self.name] += 1
        if self.fault not in self._logged and len(self._logged) < _MAX_MESSAGES:
            self._logged.add(self.fault)
            more = "" if len(self._logged) < _MAX_MESSAGES else "; other failures of this thread are only counted"
            log.error("thread %s failed and is started again%s", self.name, more, exc_info=error)
        delay = self._backoff.failed()
        if self._backoff.failures < self._max_failures:
            self.stopping.wait(delay)
        elif not self.stopping.is_set():
            self.stopping.set()
            self._give_up(f"thread {self.name} failed {self._backoff.failures} times in a row ({self.fault})")
