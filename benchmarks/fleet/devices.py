"""Simulated devices, many in a process: the agent's connection, client of the server, and outbox; pictures replayed."""

from __future__ import annotations

import heapq
import logging
import math
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.fleet.records import DeviceRecord, Question
from cachenet.edge_agent.device_link import DeviceLink
from cachenet.edge_agent.frame_inputs import FrameInputs
from cachenet.edge_agent.outbox import outbox as outbox_module
from cachenet.edge_agent.outbox.outbox import Outbox, UnsentFrame
from cachenet.edge_agent.remote import CloudClient
from cachenet.models.data import sample
from cachenet.shared.bundle.manifest import Bundle, Manifest
from cachenet.shared.cascade.frame import Frame
from cachenet.shared.cascade.types import Miss, Prediction
from cachenet.shared.inference.engine import resident_bytes
from cachenet.shared.inference.image import Picture, encode
from cachenet.shared.media.signature import sign
from cachenet.shared.transport import protocol
from cachenet.shared.transport.broker import addresses
from cachenet.shared.transport.mqtt import Message

#: Time between two frames of a camera, seconds: a frame after one without an answer is asked, too.
FRAME_S = 0.25
#: Share of questions after which the frame is audited, and after which a frame is given to the outbox.
_AUDITED, _STORED = 0.1, 0.1
#: Step of the outbox, seconds: longer than the agent's, because many share a processor.
_OUTBOX_STEP_S = 1.0
#: Largest size of an outbox, bytes.
_OUTBOX_BYTES = 10_000_000
#: Stack of a thread, bytes.
_STACK_BYTES = 256 << 10
#: Switch interval of the interpreter, seconds.
_SWITCH_S = 0.1
#: Threads that wait for answers, in one process.
_ASKING = 48
#: Longest wait at the end for what the outboxes store, seconds: a request without a reply is repeated after 60 s.
_DRAIN_S = 150.0


class Plan(NamedTuple):
    """What the devices of one process do.

    Attributes:
        names: Names of the devices.
        rate: Questions a second of each device.
        deadline_s: Longest wait for an answer, seconds.
        scratch: Directory of the outboxes.
    """

    names: tuple[str, ...]
    brokers: str
    bundle: Path
    scratch: Path
    rate: float
    deadline_s: float
    seed: int


class Device:
    """A device whose cascade answers nothing: each of its pictures is a question."""

    def __init__(self, name: str, plan: Plan, manifest: Manifest) -> None:
        self._deadline_s = plan.deadline_s
        self._model = manifest.only("full")
        self._index = 0
        self.questions: list[Question] = []
        self.moves: list[tuple[float, int]] = []
        self._audits_sent = self._audits_answered = 0
        self._status = protocol.topic(name, "status")
        topics = [(protocol.topic(name, "answer"), 0), (protocol.CATALOGUE_TOPICS, 1)]
        will = self._status, protocol.describe(protocol.Status("offline", "1"))
        brokers = addresses(plan.brokers)
        self.link = DeviceLink(brokers, name, topics, self._receive, self._connected, lambda: will)
        self.outbox = Outbox(plan.scratch / name, _OUTBOX_BYTES, name, self.link, lambda: self._client.is_asking)
        self._client = CloudClient(self.link, name, manifest, time.monotonic, self.outbox)

    def start(self) -> None:
        self.outbox.start()
        self.link.start()

    def attempt(self, frame: Frame, picture: Picture) -> float | None:
        """Ask once; the latency, seconds, or None without an answer in time."""
        self._index += 1
        begun = time.monotonic()
        own = Frame(self._index, frame.view, frame.signature)
        held = Prediction(None, 1.0, 1.0, "base", "")
        outcome = self._client.ask(Miss(own, (), begun, begun + self._deadline_s, held, ""), lambda: picture)
        return time.monotonic() - begun if outcome.reply is not None else None

    def audit(self, picture: Picture) -> None:
        """Have a frame audited."""
        self._index += 1
        self._audits_sent += self._client.audit(self._index, picture)

    def store(self, picture: Picture) -> None:
        """Give a frame to the outbox."""
        self.outbox.offer(UnsentFrame("", False, self._model, lambda: encode(picture)))

    def record(self) -> DeviceRecord:
        self._audits_answered += len(self._client.audited())
        counts = self.outbox.counts()
        return DeviceRecord(
            self.questions, self.moves, counts.stored, counts.sent, (self._audits_sent, self._audits_answered)
        )

    def _connected(self) -> None:
        self.moves.append((time.monotonic(), self.link.address.port))
        self.outbox.on_server()
        self.link.publish(self._status, protocol.describe(protocol.Status("online", "1")), 1, retain=True)

    def _receive(self, message: Message) -> None:
        try:
            if message.topic.startswith(protocol.CATALOGUE_TOPICS[:-1]):
                self.outbox.on_server()
            elif message.topic.endswith("/answer"):
                self._client.receive(message)
                self.outbox.receive(message)
        except protocol.Malformed as error:
            logging.getLogger(__name__).error("message on %s ignored: %s", message.topic, error)


class Schedule:
    """Has each device ask at its rate, and at each further frame until an answer comes in time."""

    def __init__(self, devices: list[Device], plan: Plan) -> None:
        self._devices, self._period_s = devices, 1.0 / plan.rate
        self._random = random.Random(plan.seed)
        images = sample.load().images[:200]
        self._pictures = [np.ascontiguousarray(image[:, :, ::-1]) for image in images]
        self._frames = [Frame(0, FrameInputs(picture), sign(picture)) for picture in self._pictures]
        self._due: list[tuple[float, int, float, int]] = []
        self._lock = threading.Condition()
        self._stopping = False
        self._asking = 0

    def run(self, stop: threading.Event) -> None:
        """Ask until ``stop``, and then until no question is open."""
        now = time.monotonic()
        for number in range(len(self._devices)):
            self._add(now + self._random.uniform(0.0, self._period_s), number)
        with ThreadPoolExecutor(_ASKING) as pool:
            while not (stop.is_set() and self._is_idle()):
                with self._lock:
                    if not self._due or self._due[0][0] > time.monotonic():
                        left = self._due[0][0] - time.monotonic() if self._due else 0.1
                        self._lock.wait(min(0.1, left))
                        continue
                    _, number, asked, attempts = heapq.heappop(self._due)
                    if stop.is_set() and attempts == 0:
                        continue
                    self._asking += 1
                pool.submit(self._ask, number, asked, attempts)

    def _is_idle(self) -> bool:
        with self._lock:
            return not self._asking and all(attempts == 0 for _, _, _, attempts in self._due)

    def _add(self, due: float, number: int, asked: float = math.nan, attempts: int = 0) -> None:
        with self._lock:
            heapq.heappush(self._due, (due, number, asked, attempts))
            self._lock.notify()

    def _ask(self, number: int, asked: float, attempts: int) -> None:
        device, chosen = self._devices[number], self._random.randrange(len(self._frames))
        begun = time.monotonic()
        asked = begun if attempts == 0 else asked
        picture = self._pictures[chosen]
        latency = device.attempt(self._frames[chosen], picture)
        if latency is None:
            self._add(begun + FRAME_S, number, asked, attempts + 1)
        else:
            device.questions.append(Question(asked, begun + latency, attempts + 1, latency))
            if self._random.random() < _AUDITED:
                device.audit(picture)
            if self._random.random() < _STORED:
                device.store(picture)
            # A Poisson process: devices do not ask in step.
            self._add(time.monotonic() + self._random.expovariate(1.0 / self._period_s), number)
        with self._lock:
            self._asking -= 1


def run(plan: Plan, pipe: Connection) -> None:
    """Run the devices of a plan. Sends ``ready`` when all are connected, asks after a message, stops after another,
    and sends the memory of a device, bytes, with the records."""
    logging.basicConfig(level=logging.CRITICAL)
    threading.stack_size(_STACK_BYTES)
    # Each thread that waits for the interpreter wakes up once in this interval: hundreds would fill the processors.
    sys.setswitchinterval(_SWITCH_S)
    setattr(outbox_module, "_STEP_S", _OUTBOX_STEP_S)  # noqa: B010
    manifest = Bundle(plan.bundle).manifest
    stop = threading.Event()
    before = resident_bytes()
    devices = [Device(name, plan, manifest) for name in plan.names]
    for device in devices:
        device.start()
        time.sleep(0.02)  # all at once would fill the processors
    schedule = Schedule(devices, plan)
    while not all(device.link.connected.is_set() for device in devices):
        time.sleep(0.05)
    pipe.send("ready")
    pipe.recv()
    asking = threading.Thread(target=schedule.run, args=(stop,), daemon=True)
    asking.start()
    pipe.recv()
    own = (resident_bytes() - before) / len(devices)
    stop.set()
    asking.join()
    end = time.monotonic() + _DRAIN_S
    time.sleep(2 * _OUTBOX_STEP_S)  # what was offered last is stored
    while any(device.outbox.counts().waiting for device in devices) and time.monotonic() < end:
        time.sleep(0.1)
    pipe.send((own, [device.record() for device in devices]))
    pipe.recv()
    for device in devices:
        device.link.stop()
