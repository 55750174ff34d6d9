"""Child processes of a live run: started, monitored and always ended, by their process ids."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

#: Lines of a log that an error message quotes.
_TAIL_LINES = 8
#: Longest time from SIGTERM to the end of a process, seconds.
_STOP_TIMEOUT_S = 20.0


class Failed(Exception):
    """A process has failed. The message quotes its log and says what to do."""


class Process:
    """A running ``python -m ...``, with its output in ``<name>.out`` and its log in ``<name>.log``."""

    def __init__(self, name: str, logs: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Start the process; ``environment``: variables in addition to those of this process."""
        self.name, self.log, self.output = name, logs / f"{name}.log", logs / f"{name}.out"
        with self.output.open("wb") as out, self.log.open("wb") as log:
            # In a session of its own the child gets no Ctrl-C: the parent ends the children in the right order.
            self._popen = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
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
        """End the process with SIGTERM, and with SIGKILL if it does not end in time."""
        if self.running:
            self._popen.terminate()
        try:
            self._popen.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the process with SIGKILL."""
        if self.running:
            self._popen.kill()
            self._popen.wait()

    def failed(self, what: str, advice: str) -> Failed:
        """The exception that quotes the end of the log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()[-_TAIL_LINES:]
        quoted = "".join(f"\n  | {line}" for line in lines) or "\n  | (the log is empty)"
        return Failed(f"{self.name} {what}; {advice}{quoted}")


class Processes:
    """The child processes of one run. Leaving the context ends them all, last started first."""

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
        finally:  # after a second Ctrl-C, too
            for process in self._all:
                process.kill()

    def start(self, name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Process:
        """Start ``python -m`` with ``arguments``; ``environment``: see ``Process``."""
        process = Process(name, self._logs, *arguments, environment=environment)
        self._all.append(process)
        return process

    def stop(self, process: Process) -> None:
        """End one process."""
        process.stop()
        self._all.remove(process)

    def check(self, but: Process | None = None) -> None:
        """Raise ``Failed`` if a process other than ``but`` is not running."""
        for process in self._all:
            if process is not but and not process.running:
                raise process.failed("ended by itself", f"its log is {process.log}")

    def wait(self, process: Process, ready: Callable[[], bool], timeout_s: float, for_what: str) -> None:
        """Return when ``ready``. Raises ``Failed`` if a process ends or after ``timeout_s``."""
        until = time.monotonic() + timeout_s
        while not ready():
            self.check()
            if time.monotonic() > until:
                raise process.failed(f"was not {for_what} within {timeout_s:.0f} s", "is the machine very busy?")
            time.sleep(0.05)


def free_port() -> int:
    """An unused TCP port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    """Whether a server listens on ``port`` of the loopback interface."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
