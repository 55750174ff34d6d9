"""Cameras as their users have them: several behind one agent, over a real broker, over RTSP, through a pipe."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks import rtsp
from cachenet.models.data import cifar10, sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.simulator.traces.replay import replay
from tests.broker import Mosquitto, free_port, mosquitto
from tests.bundles import tiny_bundle
from tests.e2e.agents import AgentProcess
from tests.e2e.servers import ServerProcess

__all__ = ["mosquitto"]

ZOO = Path("models/zoo/cifar10")
_BOUND_S = 60.0


def tables(path: Path, **cameras: dict[str, Any]) -> str:
    """Write a TOML file of these cameras; its name."""
    lines = []
    for name, settings in cameras.items():
        lines += ["[[camera]]", *(f"{key} = {json.dumps(value)}" for key, value in {"name": name, **settings}.items())]
    path.write_text("\n".join(lines))
    return str(path)


def ended(agent: AgentProcess) -> dict[str, Any]:
    """The summary of an agent with several cameras; what must hold of every run is checked."""
    out, _ = agent.process.communicate(timeout=_BOUND_S)
    assert agent.process.returncode == 0, agent.log()
    assert "Traceback" not in agent.log()
    summary: dict[str, Any] = json.loads(out)
    for name, own in summary["cameras"].items():
        frames = [answer["frame"] for answer in agent.answers() if answer["camera"] == name]
        assert frames == list(range(own["frames"])), "one answer each, in order"
        assert sum(own["hits"].values()) + own["full"] + own["cloud"] + own["fallbacks"] == own["frames"]
    return summary


def test_several_cameras_ask_one_server_and_every_decision_of_each_is_made_again_to_the_last_bit(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Cameras share connection, loader and models, but their decisions are independent."""
    images = sample.load()
    cameras: dict[str, dict[str, Any]] = {}
    for name, kind, seed in (("door", "held", 5), ("yard", "session", 6), ("gate", "held", 5)):
        streams.record_stream(
            streams.schedule(kind, images.labels, seed, 150), images.images, tmp_path / name, cifar10.LABELS
        )  # fmt: skip
        cameras[name] = {"source": str(tmp_path / name), "fps": 60.0, "decision_log": str(tmp_path / f"{name}.jsonl")}
    server = ServerProcess(tmp_path, "--bundle", str(ZOO), "--broker", mosquitto.url)
    with closing(server):
        server.wait_for("connected to")
        agent = AgentProcess(
            tmp_path,
            *("--config", tables(tmp_path / "agent.toml", **cameras), "--broker", mosquitto.url),
            *("--store", str(tmp_path / "store"), "--set", "audit_share=0.3"),
        )
        summary = ended(agent)
    for name, own in summary["cameras"].items():
        assert own["cloud"] > 0
        found = replay(tmp_path / f"{name}.jsonl", Bundle(ZOO), tmp_path / name)
        assert found.first is None
        assert (found.frames, found.identical) == (150, 150 + found.corrections)
    downloaded = sum(model.bytes for model in Bundle(ZOO).manifest.models.values())
    assert summary["bytes_down"] < 1.2 * downloaded, "each model once"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def lost(port: int) -> float:
    """How often the front camera was lost, as ``/metrics`` says."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_BOUND_S) as answer:
        found = re.search(r'cachenet_losses_total\{camera="front"\} (\S+)', answer.read().decode())
    assert found is not None
    return float(found[1])


def threads_and_files(agent: AgentProcess) -> tuple[int, int]:
    process = Path(f"/proc/{agent.process.pid}")
    return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))


@pytest.mark.skipif(bool(rtsp.missing()), reason=rtsp.missing())
def test_a_network_camera_that_is_killed_or_frozen_comes_back_and_the_other_does_not_notice(
    bundle: Path, tmp_path: Path, opened: ExitStack
) -> None:
    """``python -m benchmarks.cameras`` does it 25 times, and measures."""
    front, back = (opened.enter_context(closing(rtsp.RtspCamera())) for _ in range(2))
    cameras = {"front": {"source": front.url}, "back": {"source": back.url}}
    port = free_port()
    agent = AgentProcess(
        tmp_path, "--config", tables(tmp_path / "agent.toml", **cameras), "--bundle", str(bundle),
        "--set", "levels=base", "--set", f"metrics={port}",
    )  # fmt: skip
    opened.enter_context(closing(agent))

    def answers(camera: str) -> int:
        return sum(answer["camera"] == camera for answer in agent.answers())

    def more(camera: str, count: int = 5) -> None:
        expected = answers(camera) + count
        agent.wait(lambda: answers(camera) >= expected)

    more("front", 20)
    more("back")
    before = threads_and_files(agent)
    for losses, (lose, give_back) in enumerate(((front.kill, front.start), (front.freeze, front.thaw)), 1):
        lose()
        agent.wait(lambda losses=losses: lost(port) == losses)
        more("back")
        give_back()
        more("front")
    agent.wait(lambda: threads_and_files(agent) <= before)
    agent.process.terminate()
    summary = ended(agent)
    assert (summary["cameras"]["front"]["losses"], summary["cameras"]["back"]["losses"]) == (2, 0)
    assert "front (rtsp://127.0.0.1:" in agent.log() and "back (rtsp://" not in agent.log()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg: apt-get install ffmpeg")
def test_what_ffmpeg_writes_into_the_pipe_is_answered(bundle: Path, tmp_path: Path) -> None:
    """The very command of docs/cameras.md."""
    found = re.search(r"```sh\n(ffmpeg .*?)```", Path("docs/cameras.md").read_text(), re.DOTALL)
    assert found is not None
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (640, 480))
    for brightness in range(0, 200, 10):
        writer.write(np.full((480, 640, 3), brightness, np.uint8))
    writer.release()
    (tmp_path / "cifar10").symlink_to(bundle)
    paths = {"PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}", "PYTHONPATH": str(Path.cwd())}
    output = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {found[1].rstrip()} --json"],
        cwd=tmp_path, env=os.environ | paths, capture_output=True, text=True, timeout=_BOUND_S, check=False,
    )  # fmt: skip
    assert output.returncode == 0, output.stderr
    summary = json.loads(output.stdout)
    assert summary["frames"] + summary["dropped"] == 20
    assert summary["frames"] == len((tmp_path / "answers.jsonl").read_text().splitlines()) > 0
    assert summary["broken"] == 0


def test_a_camera_of_several_that_is_not_there_is_named_in_one_line(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    cv2.imwrite(str(tmp_path / "a/0.png"), np.zeros((8, 8, 3), np.uint8))
    cameras = {"front": {"source": str(tmp_path / "a")}, "back": {"source": "rtsp://admin:s3cret@127.0.0.1:1/x"}}
    output = subprocess.run(
        [
            *(sys.executable, "-m", "cachenet.edge_agent", "run", "--bundle", str(bundle)),
            *("--config", tables(tmp_path / "agent.toml", **cameras)),
        ],
        capture_output=True, text=True, timeout=_BOUND_S, check=False,
    )  # fmt: skip
    assert (output.returncode, output.stdout) == (2, "")
    assert output.stderr.startswith("edge-agent: back: rtsp://127.0.0.1:1/... cannot be opened")
    assert output.stderr.count("\n") == 1
