"""An agent as a process, and what tests of running agents share."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cachenet.shared.bundle.manifest import Bundle
from tests.broker import Mosquitto
from tests.bundles import tiny_bundle
from tests.e2e.servers import ServerProcess

_BOUND_S = 30.0


def picture(seed: int) -> np.ndarray:
    """Of random blocks: like no other seed's."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.resize(small, (64, 48), interpolation=cv2.INTER_NEAREST)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One whose local models are hardly ever sure enough: most frames ask the cloud."""
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle"), risk=1e-6))


class AgentProcess:
    """``edge-agent run`` with these flags, its answers, summary and log in files."""

    def __init__(self, directory: Path, *flags: str, name: str = "agent") -> None:
        self._answers, self._log = directory / f"{name}.jsonl", directory / f"{name}.log"
        self.begun = time.monotonic()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(
                        sys.executable,
                        "-m",
                        "cachenet.edge_agent",
                        "run",
                        "--provider",
                        "cpu",
                        "--json",
                        "--no-view",
                        "-v",
                    ),
                    *("--device", "cam", "--output", str(self._answers), *flags),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def log(self) -> str:
        return self._log.read_text()

    def answers(self, corrections: bool = False) -> list[dict[str, Any]]:
        """Those so far, or the corrections of them. The last line may be half written."""
        if not self._answers.exists():
            return []
        lines = (json.loads(line) for line in self._answers.read_bytes().split(b"\n")[:-1])
        return [line for line in lines if line.get("correction", False) == corrections]

    def wait(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + _BOUND_S
        while not true():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def wait_for(self, count: int, level: str | None = None) -> None:
        """Wait for ``count`` more answers, of ``level`` if it is not None."""

        def answered() -> int:
            return sum(answer["level"] == level or level is None for answer in self.answers())

        before = answered()
        self.wait(lambda: answered() >= before + count)

    def resident_peak(self) -> int:
        """Bytes, from the system's own books."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def finish(self, timeout_s: float = 2 * _BOUND_S) -> dict[str, Any]:
        """The summary, once it has ended by itself; what must hold of every run is checked."""
        out, _ = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == 0, self.log()
        assert "Traceback" not in self.log()
        summary: dict[str, Any] = json.loads(out)
        answers = self.answers()
        assert [answer["frame"] for answer in answers] == list(range(summary["frames"])), "one answer each, in order"
        assert (
            sum(summary["hits"].values()) + summary["full"] + summary["cloud"] + summary["fallbacks"]
            == summary["frames"]
        )
        return summary

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[dict[str, Any], float]:
        begun = time.monotonic()
        self.process.send_signal(how)
        summary = self.finish()
        return summary, time.monotonic() - begun

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Callable[..., AgentProcess]]:
    """Start agents that do not outlive the test."""
    started: list[AgentProcess] = []

    def start(*flags: str) -> AgentProcess:
        started.append(AgentProcess(tmp_path, *flags, name=f"agent{len(started)}"))
        return started[-1]

    yield start
    for agent in started:
        agent.close()


@pytest.fixture
def servers(tmp_path: Path, bundle: Bundle) -> Iterator[Callable[[Mosquitto], ServerProcess]]:
    """Start servers of ``bundle`` that do not outlive the test."""
    started: list[ServerProcess] = []

    def start(broker: Mosquitto) -> ServerProcess:
        started.append(ServerProcess(tmp_path, "--bundle", str(bundle.directory), "--broker", broker.url))
        started[-1].wait_for("connected to")
        return started[-1]

    yield start
    for server in started:
        server.close()
