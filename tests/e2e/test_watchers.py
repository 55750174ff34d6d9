"""What people see of an agent: real processes, a real broker, and an end that leaves things whole."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest

from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.media.pictures import decode
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection
from cachenet.shared.transport.protocol import topic
from tests.broker import Mosquitto, free_port, mosquitto
from tests.bundles import tiny_bundle
from tests.e2e.agents import AgentProcess
from tests.e2e.servers import until

__all__ = ["mosquitto"]

_CONFIG = "homeassistant/device/cam/camera/config"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture
def agents(frames: Path, bundle: Bundle, tmp_path: Path) -> Iterator[Callable[..., AgentProcess]]:
    """Starts agents that play the frames, 50 a second, and kills what is left of them."""
    started: list[AgentProcess] = []

    def start(*flags: str) -> AgentProcess:
        own = (str(frames), "--bundle", str(bundle.directory), "--fps", "50", "--mode", "offline", *flags)
        started.append(AgentProcess(tmp_path, *own, name=f"agent{len(started)}"))
        return started[-1]

    yield start
    for agent in started:
        agent.process.kill()
        agent.process.communicate()


class Observer:
    """Any other MQTT client."""

    def __init__(self, broker: Mosquitto, *topics: str) -> None:
        self.messages: list[Message] = []
        subscriptions = [(expected, 1) for expected in topics]
        self.link = MqttConnection(Address("127.0.0.1", broker.port), "observer", subscriptions, self.messages.append)

    def __enter__(self) -> Observer:
        self.link.start()
        until(self.link.connected.is_set)
        return self

    def __exit__(self, *_: object) -> None:
        self.link.stop()

    def on(self, expected: str) -> list[bytes]:
        return [message.payload for message in self.messages if message.topic == expected]

    def await_(self, *topics: str) -> None:
        until(lambda: all(self.on(expected) for expected in topics))


def forget(broker: Mosquitto, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cachenet.edge_agent", "forget", "--broker", broker.url, "--device", "cam", *flags],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_cameras_are_announced_again_after_home_assistant_starts_and_can_be_forgotten(
    agents: Callable[..., AgentProcess], mosquitto: Mosquitto
) -> None:
    agent = agents("--broker", mosquitto.url, "--set", "home_assistant=true")
    agent.wait(agent.answers)
    with Observer(mosquitto, "homeassistant/device/#", topic("cam", "#")) as observer:
        until(lambda: observer.on(_CONFIG))
        (config,) = observer.on(_CONFIG)
        logged = json.loads(config)
        until(lambda: observer.on(logged["state_topic"]))
        result = json.loads(observer.on(logged["state_topic"])[0])
        assert result["label"] in agent_labels(agent)
        observer.link.publish("homeassistant/status", b"offline")
        observer.link.publish("homeassistant/status", b"online")
        until(lambda: len(observer.on(_CONFIG)) == 2)
        assert observer.on(_CONFIG)[1] == config

        refused = forget(mosquitto)
        assert refused.returncode == 2
        assert refused.stderr == "edge-agent: cam is online and would publish again; stop it first\n"

        agent.stop()
        gone = "homeassistant/device/cam/cellar/config"
        observer.link.publish(gone, b'{"of": "a camera that is no more"}', qos=1, retain=True)
        until(lambda: observer.on(gone))
        done = forget(mosquitto)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [f"Emptied: {each}" for each in (topic("cam", "status"), _CONFIG, gone)]
    with Observer(mosquitto, "homeassistant/#", topic("cam", "#")) as late:
        time.sleep(0.5)
        assert [message.topic for message in late.messages] == []


def agent_labels(agent: AgentProcess) -> set[str]:
    return {answer["label"] for answer in agent.answers()}


def test_results_are_published_only_if_enabled_and_without_home_assistant_too(
    agents: Callable[..., AgentProcess], mosquitto: Mosquitto
) -> None:
    with Observer(mosquitto, "#") as observer:
        agent = agents("--broker", mosquitto.url, "--frames", "20")
        agent.finish()
        assert {message.topic for message in observer.messages} == {topic("cam", "status")}
        agent = agents("--broker", mosquitto.url, "--set", "results=true")
        until(lambda: observer.on(topic("cam", "result")))
        agent.stop()
        assert not [message for message in observer.messages if message.topic.startswith("homeassistant")]


def test_several_cameras_have_a_page_results_and_videos_of_their_own(
    frames: Path, bundle: Bundle, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    port, config, tables = free_port(), tmp_path / "agent.toml", []
    for name in ("door", "yard"):
        saved = tmp_path / f"{name}.mp4"
        tables.append(f'[[camera]]\nname = "{name}"\nsource = "{frames}"\nsave = "{saved}"\nfps = 50.0\n')
    config.write_text("".join(tables))
    flags = ("--config", str(config), "--bundle", str(bundle.directory), "--broker", mosquitto.url, "--mode", "offline")
    agent = AgentProcess(tmp_path, *flags, "--preview", str(port), "--set", "home_assistant=true")
    try:
        with Observer(mosquitto, topic("cam", "result", "#"), "homeassistant/device/cam/#") as observer:
            for name in ("door", "yard"):
                result, config_topic = topic("cam", "result", name), f"homeassistant/device/cam/{name}/config"
                observer.await_(result, config_topic)
                assert json.loads(observer.on(result)[0])["camera"] == name
                assert decode(fetch(port, f"/snapshot.jpg?camera={name}")).shape[1] >= 480
        agent.process.terminate()
        summary = json.loads(agent.process.communicate(timeout=60)[0])
    finally:
        agent.process.kill()
        agent.process.communicate()
    for name, own in summary["cameras"].items():
        assert frames_of(tmp_path / f"{name}.mp4") == own["frames"] > 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_leaves_a_video_that_can_be_played_and_misses_to_look_at(
    agents: Callable[..., AgentProcess], tmp_path: Path, how: signal.Signals
) -> None:
    port, video, misses = free_port(), tmp_path / "a.mp4", tmp_path / "misses"
    agent = agents(
        "--preview", str(port), "--save", str(video), "--set", f"misses={misses}", "--set", "misses_budget=50kB"
    )
    agent.wait_for(20)
    assert decode(fetch(port, "/snapshot.jpg")).shape[1] >= 480
    assert b"/stream.mjpg" in fetch(port, "/")
    summary, _ = agent.stop(how)
    assert frames_of(video) == summary["frames"]
    stored = sum(file.stat().st_size for file in misses.iterdir())
    assert (stored > 0) == (summary["fallbacks"] + summary["full"] > 0)
    assert stored <= 50_000


def fetch(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return bytes(answer.read())


def frames_of(video: Path) -> int:
    capture, count = cv2.VideoCapture(str(video)), 0
    while capture.read()[0]:
        count += 1
    return count
