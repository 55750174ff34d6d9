"""Supervised threads: exceptions are logged and counted, and the thread continues."""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from weakref import WeakSet

from cachenet.shared.transport.backoff import Backoff

log = logging.getLogger(__name__)

#: Consecutive failures after which a thread ends. With the delays below they take half a minute.
MAX_FAILURES = 10
#: First and longest delay after a failure, seconds.
_BACKOFF_S = (0.1, 10.0)
#: Most different failures that one thread logs; bounds the size of the log.
_MAX_MESSAGES = 100

_lock = threading.Lock()
_failures: Counter[str] = Counter()
#: Supervised threads that were started.
_started: WeakSet[SupervisedThread] = WeakSet()


def failures() -> dict[str, int]:
    """Number of failures of each supervised thread of this process, by name, for ``/metrics``."""
    with _lock:
        return dict(_failures)


def ended_threads() -> list[str]:
    """Names of supervised threads that have ended and were not to end."""
    with _lock:
        return sorted(thread.name for thread in _started if not thread.alive and not thread.stopping.is_set())


def end_process(why: str) -> None:
    """End the process at once with exit code 1, so that a service manager starts it again."""
    log.critical("%s; ending the process", why)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(1)


class SupervisedThread:
    """A thread that calls ``body`` repeatedly until ``stop``.

    ``body`` is one iteration of a loop. An exception is logged with its traceback (once for each message), counted, and
    followed by a delay that doubles up to 10 s. After ``max_failures`` consecutive exceptions the thread calls
    ``give_up`` with the reason, and ends.

    Attributes:
        stopping: Set when the thread has to end; a ``body`` that waits should wait for this event too.
        fault: The last exception as one line; empty after a successful call of ``body``.

    Example:
        thread = SupervisedThread("loader", load_next)  # load_next() waits for one task, does it and returns
        thread.start()
        ...
        thread.stop(timeout_s=1.0)
    """

    def __init__(
        self,
        name: str,
        body: Callable[[], None],
        give_up: Callable[[str], None] = end_process,
        max_failures: int = MAX_FAILURES,
        backoff_s: tuple[float, float] = _BACKOFF_S,
    ) -> None:
        """Configure the thread; ``start`` starts it.

        Args:
            give_up: Called with a reason after too many failures (default: end the process).
            max_failures: Consecutive failures after which the thread ends.
            backoff_s: First and longest delay after a failure, seconds.
        """
        self.name = name
        self.stopping = threading.Event()
        self.fault = ""
        self._body, self._give_up, self._max_failures = body, give_up, max_failures
        self._backoff = Backoff(*backoff_s)
        self._logged: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        with _lock:
            _failures[self.name] += 0  # metrics show the thread before its first failure
        self._thread.start()
        with _lock:
            _started.add(self)

    def stop(self, timeout_s: float | None = None) -> bool:
        """Stop after the present call of ``body``, and wait. Returns False if the thread runs after the timeout."""
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
        except BaseException as error:  # a panic in Rust code and SystemExit are not an ``Exception``
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
