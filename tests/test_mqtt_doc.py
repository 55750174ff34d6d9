"""The commands of docs/mqtt.md, run as a reader would run them: real clients, broker, server and device."""

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

from tests.broker import Mosquitto, mosquitto
from tests.e2e.servers import ServerProcess
from tests.test_readme import ROOT, Block, blocks

__all__ = ["mosquitto"]

DOCUMENT = ROOT / "docs" / "mqtt.md"
BLOCKS = blocks(DOCUMENT.read_text("utf-8"))
ZOO = ROOT / "models" / "zoo"


class Workplace:
    """Where a reader would be: the clients know the broker, there is a photo, and a device is at work."""

    def __init__(self, directory: Path, broker: Mosquitto) -> None:
        self.directory = directory
        sheet = cv2.imread(str(ZOO / "cifar10-sample" / "horse.png"))
        assert sheet is not None
        cv2.imwrite(
            str(directory / "photo.jpg"), cv2.resize(sheet[:32, :32], (320, 240), interpolation=cv2.INTER_CUBIC)
        )
        (directory / ".config").mkdir()
        for client in ("mosquitto_pub", "mosquitto_sub", "mosquitto_rr"):
            (directory / ".config" / client).write_text(f"-h 127.0.0.1\n-p {broker.port}\n")
        self._environment = {
            **os.environ,
            "HOME": str(directory),
            "XDG_CONFIG_HOME": str(directory / ".config"),
            "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, block: Block) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.commands],
            cwd=self.directory, env=self._environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.commands}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, mosquitto: Mosquitto) -> Iterator[Workplace]:
    directory = tmp_path_factory.mktemp("reader")
    server = ServerProcess(directory, "--bundle", str(ZOO / "cifar10"), "--broker", mosquitto.url)
    sample = ("simulator", "stream", "camera", "--frames", "400", "--out", str(directory / "stream"))
    subprocess.run([sys.executable, "-m", *sample], check=True, stdout=subprocess.DEVNULL, timeout=120)
    agent = subprocess.Popen(
        [
            *(sys.executable, "-m", "edge_agent", "run", str(directory / "stream"), "--fps", "10", "--no-view"),
            *("--broker", mosquitto.url, "--store", str(directory / "store"), "--device", "porch-pi", "--results"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield Workplace(directory, mosquitto)
    agent.send_signal(signal.SIGTERM)
    agent.wait(30)
    server.close()


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.mark == "test"], ids=str)
def test_the_commands_run(block: Block, workplace: Workplace) -> None:
    said = workplace.run(block)
    if "python3" in block.commands:
        assert said.splitlines()[0].strip() == "answer"
        assert said.splitlines()[1].startswith("horse ")
    elif "/status" in block.commands:
        assert said.startswith('cachenet/1/porch-pi/status {"state":"online",')
    elif "/result" in block.commands:
        assert said.count('cachenet/1/porch-pi/result {"frame":') == 2


def test_every_block_is_tested_or_says_why_not() -> None:
    for block in BLOCKS:
        assert block.mark == "test" or (block.mark == "no test" and block.reason), f"docs/mqtt.md {block} has no mark"
