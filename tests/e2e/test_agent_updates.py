"""Updates of a running agent: real processes, a real broker, and whatever ends them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest

from cachenet.edge_agent.updates.store import Store
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection
from tests import faulty
from tests.broker import Mosquitto
from tests.bundles import tiny_bundle
from tests.e2e.agents import AgentProcess, agents, picture
from tests.e2e.servers import ServerProcess
from tests.edge_agent.agents import install_current, install_files
from tests.faulty import with_golden, with_model

__all__ = ["agents"]

ROOT = Path(__file__).parents[2]

#: An agent that sees dark pictures until its update is current, and then bright ones.
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from cachenet.edge_agent import agent as module
from cachenet.edge_agent.doctor import watchdog
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import SourceFrame
from cachenet.edge_agent.updates.store import Store

store, newer, frames = Store(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
watchdog.HANG_TIMEOUT_S = 3.0

class Pictures:
    dropped = broken = losses = 0
    error, fps = "", None
    def __iter__(self):
        for index in range(frames):
            bright = agent.updater._current.version == newer and not agent.updater._deployed
            yield SourceFrame(np.full((48, 64, 3), 250 if bright else index % 40, np.uint8))
            agent.stopped.wait(0.01)
    def close(self): pass

settings = Settings(provider="cpu", levels=("base",))
agent = module.Agent(settings, [Pictures()], (), store, None)
if len(sys.argv) > 4:
    agent.updater.announce(Path(sys.argv[4]).read_bytes())
agent.run(JsonLinesWriter("-"))
print(agent.cameras[0].version, agent.updater.status, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_golden(tiny_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_golden(tiny_bundle(tmp_path_factory.mktemp("newer"), seed=1))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three of them."""
    directory = tmp_path / "pictures"
    directory.mkdir()
    for number in range(3):
        cv2.imwrite(str(directory / f"{number}.png"), picture(number))
    return directory


def test_kills_at_random_moments_of_an_update_leave_a_device_that_answers() -> None:
    """Without a network and with one. How soon is the benchmark's to say."""
    command = [sys.executable, "-m", "benchmarks.update_kills", "--kills", "10", "--limit", "60"]
    command += ["--workers", "5", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert [summary[name] for name in ("kills", "offline_answered", "online_answered")] == [10, 10, 10]


def test_a_model_that_hangs_in_use_ends_the_process_and_is_gone_at_the_next_start(
    bundle: Bundle, tmp_path: Path
) -> None:
    """It passes the probe, for it hangs on bright pictures alone."""
    hanging = with_model(bundle, tmp_path / "hanging", faulty.looping_when_bright())
    unknown = Bundle(faulty.without_golden(hanging.directory))
    store = tmp_path / "store"
    install_current(install_files(Store(store), bundle), bundle.data)
    install_files(Store(store), unknown).stage(unknown.data, unknown.manifest)
    manifest = unknown.directory / "bundle.json"
    first = _run(store, unknown.version, 2000, str(manifest))
    assert first.returncode == 1, first.stderr
    assert "a model hangs" in first.stderr
    second = _run(store, unknown.version, 20)
    assert second.returncode == 0, second.stderr
    assert len(second.stdout.splitlines()) == 20
    assert second.stderr.splitlines()[-1].startswith(f"{bundle.version} failed (")


def _run(store: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(store), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A file system in memory, and a call that makes it read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=False).returncode:
        pytest.skip("only root can mount a file system")

    def seal() -> Path:
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        return place

    yield seal
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_warm_store_on_a_read_only_disk_starts_and_answers(
    bundle: Bundle, pictures: Path, tmp_path: Path, read_only: Callable[[], Path], agents: Callable[..., AgentProcess]
) -> None:
    """As a worn memory card becomes one."""
    store = tmp_path / "disk" / "store"
    install_current(install_files(Store(store), bundle), bundle.data)
    read_only()
    agent = agents(str(pictures), "--store", str(store), "--broker", "mqtt://127.0.0.1:1")
    assert agent.finish()["frames"] == 3
    assert "Read-only file system" in agent.log()


def test_the_status_of_a_device_has_the_state_of_its_update(
    bundle: Bundle, newer: Bundle, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    states: list[str] = []

    def hear(message: Message) -> None:
        state = json.loads(message.payload)["update"]
        if states[-1:] != [state]:
            states.append(state)

    operator = MqttConnection(
        Address("127.0.0.1", mosquitto.port), "operator", [(protocol.topic("cam", "status"), 1)], hear
    )
    operator.start()
    store = tmp_path / "store"
    install_current(install_files(Store(store), bundle), bundle.data)
    server = ServerProcess(tmp_path, "--bundle", str(newer.directory), "--broker", mosquitto.url)
    server.wait_for("connected to")
    frames = b"".join(bytes([n % 250]) * (32 * 32 * 3) for n in range(3000))
    agent = AgentProcessWithPipe(tmp_path, "pipe:32x32", "--store", str(store), "--broker", mosquitto.url)
    try:
        agent.feed(frames, until_=lambda: states[-1:] == ["committed"] and "trial" in states)
        assert states[states.index("pending") :] == ["pending", "probing", "trial", "committed"]
        assert Store(store).current() == newer.data
    finally:
        agent.close()
        server.stop()
        server.close()
        operator.stop()


class AgentProcessWithPipe(AgentProcess):
    """An agent that reads what the test writes."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self._read, self._write = os.pipe()
        saved = os.dup(0)
        os.dup2(self._read, 0)
        try:
            super().__init__(directory, *flags)
        finally:
            os.dup2(saved, 0)
            os.close(saved)
            os.close(self._read)

    def feed(self, frames: bytes, until_: Callable[[], bool]) -> None:
        """Write the frames again and again, two hundred a second, until something is so."""
        size, at, deadline = 32 * 32 * 3, 0, time.monotonic() + 60
        while not until_():
            assert time.monotonic() < deadline, self.log()
            os.write(self._write, frames[at : at + size])
            at = (at + size) % len(frames)
            time.sleep(0.005)

    def close(self) -> None:
        os.close(self._write)
        self.process.communicate(timeout=30)


def test_the_process_that_has_a_store_is_named_to_who_wants_it_too(
    bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    install_current(install_files(store, bundle), bundle.data)
    store.lock()
    done = subprocess.run(
        [*(sys.executable, "-m", "cachenet.edge_agent", "run", str(pictures), "--broker", "mqtt://127.0.0.1:1"),
         *("--store", str(tmp_path / "store"))],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"is in use by process {os.getpid()}" in done.stderr
