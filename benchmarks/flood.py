"""Share of answers in time of well-behaved devices, alone and while another device floods the server.

    python -m benchmarks.flood [--json]

Runs ``cloud-server`` and mosquitto with the limits of docker/mosquitto.conf, without users. Each honest device asks at
a fixed rate with a budget of its own; an answer that arrives within the budget is in time. Attackers publish by MQTT:

- ``large_pictures``: PNG of 4000 x 4000 pixels, 5 a second, with budgets of 600 s.
- ``large_photographs``: the largest JPEG that the server takes, 4000 x 4000 pixels, 5 a second, with such budgets.
- ``small_pictures``: PNG of the model's size, 100 a second, with budgets of 600 s.
- ``forged_names``: the same, each under a new device name. A broker with users forbids this; one without cannot.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from cachenet.models.data import sample
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.image import encode
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, Message, MqttConnection
from cachenet.simulator.world.processes import Process, free_port, is_listening

_CONFIGURATION = Path(__file__).parents[1] / "docker/mosquitto.conf"
#: Options of that file that need certificates, users or a directory.
_NOT_HERE = ("listener", "certfile", "keyfile", "plugin", "allow_anonymous", "persistence", "autosave")
#: Budget of an attacker's requests, milliseconds.
_ATTACK_BUDGET_MS = 600_000
#: Attack by many devices.
_FORGES = "forged_names"
#: Longest wait for a start, seconds.
_TIMEOUT_S = 60.0


class Device:
    """A device that asks and counts. ``replies`` has the reasons of refusals, and ``answer``."""

    def __init__(self, port: int, name: str, budget_ms: int, forges: bool = False) -> None:
        """``forges``: whether each request has a new device name."""
        self._name, self._budget_ms, self._forges = name, budget_ms, forges
        self._asked: dict[bytes, float] = {}
        self.latencies_ms: list[float] = []
        self.replies: Counter[str] = Counter()
        self.sent = 0
        topics = [f"{protocol.ROOT}/+/answer" if forges else protocol.topic(name, "answer")]
        self._link = MqttConnection(Address("127.0.0.1", port), name, [(one, 0) for one in topics], self._receive)
        self._link.start()
        _until(self._link.connected.is_set, f"{name} connects")

    def ask(self, picture: bytes, model: str) -> None:
        """Send one question."""
        self.sent += 1
        correlation = f"{self._name}-{self.sent}".encode()
        name = f"{self._name}-{self.sent}" if self._forges else self._name
        content = "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"
        properties = [("budget-ms", str(self._budget_ms)), ("recent", "")]
        self._asked[correlation] = time.monotonic()
        topic = protocol.topic(name, "infer", model)
        self._link.publish(topic, picture, content=content, correlation=correlation, properties=properties)

    def _receive(self, message: Message) -> None:
        asked = self._asked.pop(message.correlation or b"", None)
        if asked is None:
            return
        reply: protocol.Reply = protocol.decode(message.payload, protocol.Reply)  # type: ignore[arg-type]
        if isinstance(reply, protocol.Rejection):
            self.replies[reply.reason] += 1
        else:
            self.replies["answer"] += 1
            self.latencies_ms.append((time.monotonic() - asked) * 1000)

    def in_time(self) -> int:
        """Number of answers within the budget."""
        return sum(latency <= self._budget_ms for latency in self.latencies_ms)

    def stop(self) -> None:
        self._link.stop()


def measure(devices: int, rate: float, budget_ms: int, seconds: float) -> dict[str, object]:
    """The measures as the command prints them."""
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("flood: it needs mosquitto (apt-get install mosquitto)")
    model = Bundle(zoo.find("cifar10")).manifest.only("full")
    small = encode(np.ascontiguousarray(sample.load().images[0, :, :, ::-1]))[1]
    large = cv2.imencode(".png", np.zeros((4000, 4000, 3), np.uint8))[1].tobytes()
    photograph = cv2.imencode(".jpg", np.zeros((4000, 4000, 3), np.uint8))[1].tobytes()
    attacks = {
        "large_pictures": (large, 5.0),
        "large_photographs": (photograph, 5.0),
        "small_pictures": (small, 100.0),
        _FORGES: (small, 100.0),
    }
    with tempfile.TemporaryDirectory() as scratch:
        place, port = Path(scratch), free_port()
        place.chmod(0o755)  # a broker that root starts drops its rights
        options = [line for line in _CONFIGURATION.read_text().splitlines() if not line.startswith(_NOT_HERE)]
        lines = [*options, f"listener {port} 127.0.0.1", "allow_anonymous true"]
        (place / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        broker = subprocess.Popen([program, "-c", str(place / "mosquitto.conf")], stderr=subprocess.DEVNULL)
        server: Process | None = None
        try:
            _until(lambda: is_listening(port), "the broker listens")
            address = f"mqtt://127.0.0.1:{port}"
            run = ("cachenet.cloud_server", "run", "--bundle", "cifar10", "--broker", address, "--provider", "cpu")
            server = Process("server", place, *run, "--json")
            _until_answered(port, small, model)
            rounds = {"alone": _round(port, small, model, devices, rate, budget_ms, seconds, None)}
            for name, attack in attacks.items():
                attacker = Device(port, name.replace("_", "-"), _ATTACK_BUDGET_MS, forges=name == _FORGES)
                rounds[name] = _round(port, small, model, devices, rate, budget_ms, seconds, (attacker, *attack))
                attacker.stop()
            server.stop()
            counts = json.loads(server.output.read_text())
        finally:
            if server is not None:
                server.stop()
            broker.terminate()
            broker.wait()
    return {
        "broker": _version(program),
        "alone": rounds["alone"]["in_time"],
        "flooded": min(rounds[name]["in_time"] for name in attacks if name != _FORGES),  # type: ignore[type-var]
        **{name: rounds[name] for name in attacks},
        "alone_median_ms": rounds["alone"]["median_ms"],
        "server": {name: counts[name] for name in ("answers", "refusals", "throttled")},
    }


def _round(
    port: int,
    picture: bytes,
    model: str,
    count: int,
    rate: float,
    budget_ms: int,
    seconds: float,
    attack: tuple[Device, bytes, float] | None,
) -> dict[str, object]:
    """Shares of one round of ``seconds``; ``attack``: the attacker, its picture, and its requests a second."""
    stopping = threading.Event()
    flood = None
    if attack is not None:
        attacker, data, attack_rate = attack
        flood = threading.Thread(target=_repeat, args=(stopping, attack_rate, lambda: attacker.ask(data, model)))
        flood.start()
        time.sleep(1.0)  # the queue fills
    honest = [Device(port, f"honest{number}", budget_ms) for number in range(count)]
    turn = iter(range(10**9))
    asking = threading.Event()
    timer = threading.Timer(seconds, asking.set)
    timer.start()
    _repeat(asking, rate * count, lambda: honest[next(turn) % count].ask(picture, model))
    time.sleep(budget_ms / 1000 + 0.2)  # the last answers
    stopping.set()
    if flood is not None:
        flood.join()
    for device in honest:
        device.stop()
    latencies = [latency for device in honest for latency in device.latencies_ms]
    found: dict[str, object] = {
        "in_time": round(sum(device.in_time() for device in honest) / sum(device.sent for device in honest), 4),
        "asked": sum(device.sent for device in honest),
        "median_ms": round(statistics.median(latencies), 1) if latencies else None,
    }
    if attack is not None:
        found |= {"attacker_sent": attack[0].sent, "attacker_received": dict(attack[0].replies)}
    return found


def _repeat(stopping: threading.Event, rate: float, act: Callable[[], object]) -> None:
    """Call ``act`` ``rate`` times a second, without drift, until ``stopping`` is set."""
    begun, number = time.monotonic(), 0
    while not stopping.wait(max(0.0, begun + number / rate - time.monotonic())):
        act()
        number += 1


def _until_answered(port: int, picture: bytes, model: str) -> None:
    """Wait until the server answers."""
    device = Device(port, "first", 5000)
    try:
        begun = time.monotonic()
        while not device.replies["answer"]:
            if time.monotonic() - begun > _TIMEOUT_S:
                raise SystemExit("flood: the server does not answer")
            device.ask(picture, model)
            time.sleep(0.5)
    finally:
        device.stop()


def _until(condition: Callable[[], object], what: str) -> None:
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > _TIMEOUT_S:
            raise SystemExit(f"flood: within {_TIMEOUT_S:.0f} s not so: {what}")
        time.sleep(0.02)


def _version(program: str) -> str:
    shown = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout
    return shown.splitlines()[0].replace(" version", "") if shown else "mosquitto"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--devices", type=int, default=5, help="number of honest devices (default: 5)")
    parser.add_argument("--rate", type=float, default=1.0, help="questions a second of each (default: 1)")
    parser.add_argument("--budget-ms", type=int, default=250, help="budget of each question (default: 250)")
    parser.add_argument("--seconds", type=float, default=16.0, help="duration of each round (default: 16)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of lines")
    chosen = parser.parse_args()
    measures = measure(chosen.devices, chosen.rate, chosen.budget_ms, chosen.seconds)
    if chosen.json:
        print(json.dumps(measures))
    else:
        for name, value in measures.items():
            print(f"{name:16} {value}")


if __name__ == "__main__":
    main()
