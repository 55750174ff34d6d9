"""What a miss costs beside what it must: the agent's question to a real server through a real mosquitto on loopback,
against a bare paho echo of the same bytes plus a bare run of the full model.

    python -m benchmarks.miss_path --bundle models/zoo/cifar10

The three alternate within one run, so that whatever else the machine does falls on all; medians are compared. Needs
mosquitto (Debian's package of that name).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from cachenet.cloud_server.settings import default_threads
from cachenet.edge_agent.frame_inputs import FrameInputs
from cachenet.edge_agent.remote import Cloud
from cachenet.models.data import sample, streams
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.types import Miss, Prediction
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Picture, crop, encode, preprocessor
from cachenet.shared.media.signature import sign
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, MqttConnection
from cachenet.simulator.world.processes import Processes, answers, free_port

_PATIENCE_S = 30.0
_WARM_UP = 20


def measure(directory: Path, rounds: int, seed: int) -> dict[str, object]:
    """The figures as the command prints them; milliseconds and the ratio of medians."""
    bundle = Bundle(directory)
    name = bundle.manifest.only("full")
    model = bundle.manifest.models[name]
    session = Session(bundle.path(name), "cpu", default_threads())
    preprocess = preprocessor(model.input)
    pictures = camera_pictures(seed)
    with mosquitto() as port, tempfile.TemporaryDirectory() as logs, Processes(Path(logs)) as processes:
        url = f"mqtt://127.0.0.1:{port}"
        server = processes.start("server", "cloud_server", "run", "--bundle", str(directory), "--broker", url)
        sent = {id(picture): encode(crop(picture, model.input))[1] for picture in pictures}
        with _echo(port, 4 * len(bundle.manifest.labels) + 100) as echo, _asker(port, bundle) as ask:
            processes.wait(server, lambda: ask(pictures[0]) is not None, _PATIENCE_S, "answering")
            tensor = preprocess(crop(pictures[0], model.input))
            ways: list[Callable[[Picture], object]] = [
                ask,
                lambda picture: echo(sent[id(picture)]),
                lambda _picture: session.run(tensor),
            ]
            times: list[list[float]] = [[] for _ in ways]
            for index in range(_WARM_UP + rounds):
                for way, spent in zip(ways, times, strict=True):
                    begun = time.perf_counter()
                    if way(pictures[index % len(pictures)]) is None:
                        raise SystemExit("miss_path: a question was not answered; is the machine very busy?")
                    spent.append((time.perf_counter() - begun) * 1000)
    miss, bare, run = (float(np.median(spent[_WARM_UP:])) for spent in times)
    return {
        "bundle": bundle.manifest.name,
        "rounds": rounds,
        "seed": seed,
        "picture_bytes": len(encode(crop(pictures[0], model.input))[1]),
        "miss_ms": miss,
        "echo_ms": bare,
        "full_model_ms": run,
        "ratio": miss / (bare + run),
    }


@contextmanager
def mosquitto() -> Iterator[int]:
    """A broker of our own on a free port of the loopback interface."""
    # Debian puts it where only root's PATH looks.
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("miss_path: no mosquitto here; install the package of that name")
    port = free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
        config.flush()
        process = subprocess.Popen([program, "-c", config.name], stderr=subprocess.DEVNULL)
        try:
            while not answers(port):
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait()


@contextmanager
def _asker(port: int, bundle: Bundle) -> Iterator[Callable[[Picture], object]]:
    """The agent's own way to the cloud."""
    link = MqttConnection(
        Address("127.0.0.1", port),
        "asker",
        [(protocol.topic("asker", "answer"), 0)],
        lambda message: cloud.receive(message),  # noqa: PLW0108 - there is no cloud yet
    )
    cloud = Cloud(link, "asker", bundle.manifest, time.monotonic)
    full = bundle.manifest.models[bundle.manifest.only("full")]
    frames = iter(range(1 << 30))
    fallback = Prediction(0, 1.0, 1.0, "base", "")

    def ask(picture: Picture) -> object:
        frame = Frame(next(frames), FrameInputs(picture), sign(picture))
        now = time.monotonic()
        return cloud.ask(Miss(frame, (), now, now + 2.0, fallback, ""), lambda: frame.view.crop(full.input)).reply

    link.start()
    link.connected.wait(_PATIENCE_S)
    try:
        yield ask
    finally:
        link.stop()


@contextmanager
def _echo(port: int, size: int) -> Iterator[Callable[[bytes], object]]:
    """Send bytes to a process that sends back ``size`` of its own, as many as an answer has."""
    echoing = multiprocessing.get_context("spawn").Process(target=_echo_process, args=(port, size))
    echoing.start()
    came = threading.Event()
    client = _paho(port, "echo/back", lambda _data: came.set())

    def echo(data: bytes) -> object:
        came.clear()
        client.publish("echo/there", data)
        return came.wait(1.0) or None

    while echo(b"") is None:  # until the other process has subscribed
        pass
    try:
        yield echo
    finally:
        client.loop_stop()
        echoing.terminate()
        echoing.join()


def _echo_process(port: int, size: int) -> None:
    reply = bytes(size)
    client = _paho(port, "echo/there", lambda _data: client.publish("echo/back", reply))
    threading.Event().wait()


def _paho(port: int, topic: str, on_data: Callable[[bytes], object]) -> mqtt.Client:
    """A bare client: nothing of ours but the one setting without which it would be 40 times slower."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)

    def no_delay(_client: mqtt.Client, _data: object, sock: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connected(*_: Any) -> None:
        client.subscribe(topic)

    def received(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        on_data(bytes(message.payload))

    client.on_socket_open, client.on_connect, client.on_message = no_delay, connected, received
    client.connect("127.0.0.1", port)
    client.loop_start()
    return client


def camera_pictures(seed: int) -> list[Picture]:
    """What a camera saw of the sample's images."""
    split = sample.load()
    plan = streams.plan("camera", split.labels, seed, 600)
    render = streams.renderer(plan, split.images)
    return [render(index) for index in range(0, 600, 10)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(json.dumps(measure(asked.bundle, asked.rounds, asked.seed)))


if __name__ == "__main__":
    main()
