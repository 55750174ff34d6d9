"""A real mosquitto on a free port of the loopback interface, for tests of what crosses the wire."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cachenet.simulator.world.processes import free_port
from cachenet.simulator.world.processes import is_listening as listening

__all__ = ["Mosquitto", "free_port", "listening", "mosquitto"]


class Mosquitto:
    """One broker, always on the same port; ``kill`` and ``start`` it as often as a test likes."""

    def __init__(self, directory: Path) -> None:
        # Debian puts it where only root's PATH looks.
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.fail("these tests need the mosquitto broker; `make test` says how to install it")
        self.port = free_port()
        config = directory / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
        self._command = [program, "-c", str(config)]
        self._place = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL, cwd=self._place)
        deadline = time.monotonic() + 10
        while not listening(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"mosquitto does not listen on port {self.port}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it as a service manager would: it writes down what it keeps."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def reload(self) -> None:
        """Have it read its configuration and certificates again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """End it without a chance to say goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A running broker, shared by a module."""
    broker = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    broker.start()
    yield broker
    broker.kill()
