"""Child processes of a demonstration: started, watched and always ended, by their own process ids."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

_TAIL_LINES = 8
#: How long a process may take to end by itself when it is asked to; a slow machine takes seconds.
_PATIENCE_S = 20.0


class Failed(Exception):
    """A process that did not do its part; the text has its last words and says what to do."""


class Process:
    """One running ``python -m ...``, with its output in ``<name>.out`` and its log in ``<name>.log``."""

    def __init__(self, name: str, logs: Path, *arguments: str) -> None:
        self.name, self.log, self.output = name, logs / f"{name}.log", logs / f"{name}.out"
        with self.output.open("wb") as out, self.log.open("wb") as log:
            # A session of its own: Ctrl-C reaches us alone, and we end the children in the right order.
            self._popen = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def succeeded(self) -> bool:
        return self._popen.poll() == 0

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        if self.running:
            self._popen.terminate()
        try:
            self._popen.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        if self.running:
            self._popen.kill()
            self._popen.wait()

    def failed(self, what: str, advice: str) -> Failed:
        words = self.log.read_text(errors="replace").strip().splitlines()[-_TAIL_LINES:]
        quoted = "".join(f"\n  | {line}" for line in words) or "\n  | (it said nothing)"
        return Failed(f"{self.name} {what}; {advice}{quoted}")


class Processes:
    """The children of one demonstration. Leaving the context ends them all, last started first."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._all: list[Process] = []

    def __enter__(self) -> Processes:
        self._logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for process in reversed(self._all):
                process.stop()
        finally:  # impatience (a second Ctrl-C) leaves nobody behind either
            for process in self._all:
                process.kill()

    def start(self, name: str, *arguments: str) -> Process:
        process = Process(name, self._logs, *arguments)
        self._all.append(process)
        return process

    def stop(self, process: Process) -> None:
        process.stop()
        self._all.remove(process)

    def check(self, but: Process | None = None) -> None:
        """Raise ``Failed`` if one of them, ``but`` aside, is not running."""
        for process in self._all:
            if process is not but and not process.running:
                raise process.failed("ended by itself", f"its whole log is in {process.log}")

    def wait(self, process: Process, ready: Callable[[], bool], timeout_s: float, for_what: str) -> None:
        """Return when ``ready``. Raises ``Failed`` if a process ends or the time is over."""
        until = time.monotonic() + timeout_s
        while not ready():
            self.check()
            if time.monotonic() > until:
                raise process.failed(f"was not {for_what} within {timeout_s:.0f} s", "is the machine very busy?")
            time.sleep(0.05)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether somebody listens on ``port`` of the loopback interface."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
