"""A real agent under a service manager: a socket of the test takes the place of systemd's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bundles import tiny_bundle

_BOUND_S = 60.0


class Systemd:
    """The socket of a service manager, and what has arrived there."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, list[str]()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def receive(self, seconds: float = _BOUND_S) -> list[str]:
        """The lines of the next message; empty if there is none in time."""
        self._socket.settimeout(seconds)
        try:
            lines = self._socket.recv(4096).decode().split("\n")
        except TimeoutError:
            return []
        self.lines += lines
        return lines

    def wait_for(self, wanted: Callable[[str], bool]) -> str:
        """Receive messages until there is such a line."""
        while lines := self.receive():
            if found := [line for line in lines if wanted(line)]:
                return found[0]
        raise AssertionError(self.lines)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    manager = Systemd(tmp_path / "notify")
    yield manager
    manager.close()


def test_an_agent_is_ready_and_pings_until_its_loop_freezes_and_again_when_it_goes_on(
    frames: Path, systemd: Systemd, tmp_path: Path
) -> None:
    """The loop freezes because nobody reads its output; all other threads go on."""
    environment = {**os.environ, "NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "1000000"}
    bundle = tiny_bundle(tmp_path / "bundle")
    with (tmp_path / "log").open("wb") as log:
        agent = subprocess.Popen(
            [
                *(sys.executable, "-m", "cachenet.edge_agent", "run", str(frames), "--bundle", str(bundle)),
                *("--provider", "cpu", "--no-view", "--output", "-", "--store", str(tmp_path / "store")),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
        )
    assert agent.stdout is not None
    try:
        assert systemd.wait_for(lambda line: line == "READY=1")
        frozen = systemd.wait_for(lambda line: "does not finish frame" in line)
        assert "WATCHDOG=1" in systemd.lines
        systemd.lines.clear()
        systemd.receive(1.5)
        assert "WATCHDOG=1" not in systemd.lines, frozen
        lines = [agent.stdout.readline() for _ in range(600)]
        assert all(lines)
        systemd.wait_for(lambda line: line == "WATCHDOG=1")
        threading.Thread(target=agent.stdout.read, daemon=True).start()
        agent.terminate()
        systemd.wait_for(lambda line: line == "STOPPING=1")
        assert agent.wait(_BOUND_S) == 0
    finally:
        agent.kill()
        agent.wait()
