"""The commands of docs/mqtt.md, run with real clients, brokers, server and device."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from cachenet.shared.bundle import zoo
from tests.broker import Mosquitto, free_port
from tests.deployed import Deployed
from tests.documents import ROOT, Block, read
from tests.e2e.servers import ServerProcess, until

pytestmark = pytest.mark.e2e

BLOCKS = [block for block in read(ROOT / "docs" / "mqtt.md") if block.tested]
(ADDRESS,) = [block for block in BLOCKS if "server.local" in block.commands]
(USERS,) = [block for block in BLOCKS if "as()" in block.commands]
(STATUS,) = [block for block in BLOCKS if "/status" in block.commands]


class ReaderShell:
    """A directory with a photo, where the page's commands run against a broker with a server and a device."""

    def __init__(self, directory: Path, port: int, deployed: bool) -> None:
        self.directory, self._port, self._deployed = directory, port, deployed
        sheet = cv2.imread(str(zoo.DIRECTORY / "cifar10-sample" / "horse.png"))
        assert sheet is not None
        photo = cv2.resize(sheet[:32, :32], (320, 240), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(directory / "photo.jpg"), photo)
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "XDG_CONFIG_HOME"},
            "HOME": str(directory),
            "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, block: Block) -> str:
        """Return the output of ``block``, which must succeed."""
        result = self.attempt(block)
        assert result.returncode == 0, f"{block.commands}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
        return result.stdout

    def attempt(self, block: Block) -> subprocess.CompletedProcess[str]:
        """Run ``block`` after the blocks that set up the connection, with this broker's address."""
        if block.note == "without users" and self._deployed:
            pytest.skip("the page says that this is for brokers without users")
        setup = ADDRESS.commands.replace("server.local", f"127.0.0.1\n-p {self._port}")
        if self._deployed:
            setup += USERS.commands.replace("broker.example", "127.0.0.1").replace("8883", str(self._port))
            setup += "as visitor\n" if "visitor" in block.commands else ""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", setup + block.commands],
            cwd=self.directory, env=self._environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("stream") / "camera"
    command = ("-m", "cachenet.simulator", "stream", "camera", "--frames", "400", "--out", str(directory))
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, timeout=120)
    return directory


@pytest.fixture(scope="module", params=["embedded", "mosquitto", "deployed"])
def shell(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stream: Path
) -> Iterator[ReaderShell]:
    directory = tmp_path_factory.mktemp("reader")
    broker: Mosquitto | None = None
    if request.param == "embedded":
        port = free_port()
        server, device = ["--port", str(port)], ["--broker", f"mqtt://127.0.0.1:{port}"]
    elif request.param == "mosquitto":
        broker = Mosquitto(directory)
        port, server = broker.port, ["--broker", broker.url]
        device = server
    else:
        broker = deployed = Deployed(directory, "porch-pi", "visitor", "--viewer", "reader")
        port, server, device = broker.port, deployed.flags("server"), deployed.flags("porch-pi")
    if broker is not None:
        broker.start()
    running = ServerProcess(directory, "--bundle", "cifar10", *server)
    running.wait_for("serving cifar10")
    agent = subprocess.Popen(
        [
            *(sys.executable, "-m", "cachenet.edge_agent", "run", str(stream), "--fps", "10", "--no-view"),
            *("--store", str(directory / "store"), "--device", "porch-pi", "--set", "results=true", *device),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    shell = ReaderShell(directory, port, request.param == "deployed")
    until(lambda: shell.attempt(STATUS).returncode == 0)
    yield shell
    agent.send_signal(signal.SIGTERM)
    agent.wait(30)
    running.close()
    if broker is not None:
        broker.kill()


@pytest.mark.parametrize("block", [block for block in BLOCKS if block not in (ADDRESS, USERS)], ids=str)
def test_a_command_of_the_page_prints_its_result(block: Block, shell: ReaderShell) -> None:
    printed = shell.run(block)
    if "python3" in block.commands:
        assert printed.splitlines()[0].strip() == "answer"
        assert printed.splitlines()[1].startswith("horse ")
    elif "/status" in block.commands:
        assert printed.startswith('cachenet/2/porch-pi/status {"state":"online",')
    elif "/result" in block.commands:
        assert printed.count('cachenet/2/porch-pi/result {"frame":') == 2
    elif "/catalogue" in block.commands:
        assert '"labels"' in (shell.directory / "bundle.json").read_text()
    else:
        assert "bad-input" in printed
