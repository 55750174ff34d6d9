"""Processes of a fault run: a broker, servers and agents that can be killed, frozen and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cachenet.simulator.world.processes import is_listening

#: Longest time until a process is ready, seconds.
_READY_S = 60.0


class Killable:
    """One program, started as often as needed; its log and output are appended to ``<name>.log`` and ``<name>.out``."""

    def __init__(
        self, name: str, command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """``environment``: variables in addition to those of this process."""
        self.name, self.log, self.output = name, directory / f"{name}.log", directory / f"{name}.out"
        self.command = list(command)
        self._environment = {**os.environ, **(environment or {})}
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program."""
        with self.log.open("ab") as log, self.output.open("wb") as out:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                cwd=self._directory,
                env=self._environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def exit_code(self) -> int | None:
        """Exit code of the program, negative for a signal; None while it runs or before its start."""
        return None if self._process is None else self._process.poll()

    def kill(self) -> None:
        """End the program with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Stop the program until ``thaw``."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self, timeout_s: float) -> int | None:
        """End the program with SIGTERM; its exit code, or None if it had to be killed."""
        if self._process is None:
            return 0
        self._signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def server(directory: Path, bundle: Path, port: int) -> Killable:
    """A server of ``bundle`` on the broker at ``port``."""
    options = ("-v", "--provider", "cpu", "--threads", "1", "--json", "--bundle", str(bundle))
    command = (sys.executable, "-m", "cachenet.cloud_server", "run", "--broker", f"mqtt://127.0.0.1:{port}", *options)
    return Killable("server", command, directory)


def broker(directory: Path, port: int, program: str) -> Killable:
    """A mosquitto on ``port``; ``program``: its path."""
    config = directory / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
    return Killable("broker", (program, "-v", "-c", str(config)), directory)


def wait_for_port(process: Killable, port: int) -> None:
    """Wait until ``port`` is open. Raises ``RuntimeError``."""
    deadline = time.monotonic() + _READY_S
    while not is_listening(port):
        if process.exit_code() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.name} does not listen; its log is {process.log}")
        time.sleep(0.02)


def end_on_sigterm() -> None:
    """Let SIGTERM raise ``KeyboardInterrupt``, once, so that all processes are ended in order."""

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
