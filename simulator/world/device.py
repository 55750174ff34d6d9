"""A device of a replay, on virtual time: its mind decides, driven by the four calls that the agent's own loop makes.

What is modelled is time: of models, from the profiles; of a frame's handling; of messages.
"""

from __future__ import annotations

import math
import random
from array import array
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import simpy

from cachenet.edge_agent.outputs.report import Latencies
from cachenet.edge_agent.updates.active_bundle import GROWTH
from cachenet.edge_agent.updates.downloader import PIECE
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.circuit_breaker import CircuitBreaker
from cachenet.shared.cascade.types import Answer, Miss, Reply
from cachenet.shared.transport import protocol
from cachenet.simulator.policies.policies import OWN, DecisionPolicy, ModelTimer, Policy, PolicyInputs, mind
from cachenet.simulator.world import machines
from cachenet.simulator.world.lane import lanes
from cachenet.simulator.world.links import LinkProfile
from cachenet.simulator.world.servers import ServerRequest, Servers
from cachenet.simulator.world.wire import Link, after

Process = Generator[simpy.Event, Any, Any]

#: Bytes of a message that are not its payload: topics, properties, correlation, and the headers of MQTT and TCP.
REQUEST, _ANSWER = 220, 150
#: What asks for a piece of a model file.
_GET = 200
#: For how long an audited frame may wait on the server (``edge_agent.remote``).
_PATIENCE_S = 60.0
#: Frames that a share of hits is taken over where it is shown over time, and for how many such windows it is kept.
WINDOW, _COURSE = 25, 400


@dataclass
class Tally:
    """What a device's run came to.

    Attributes:
        hits: Frames that a local level answered.
        asked: Frames that the full model was asked about over the network, audits included.
        right: Answers that are the true label; of no meaning where nobody knows it.
        agreed: Answers that are the full model's.
        busy_s: Seconds of its processors, together.
        pushed: Models that came over the link.
        labels: Index of each answer; -1 is ``unknown``.
    """

    frames: int = 0
    hits: int = 0
    full: int = 0
    fallbacks: int = 0
    asked: int = 0
    right: int = 0
    agreed: int = 0
    busy_s: float = 0.0
    pushed: int = 0
    labels: array[int] = field(default_factory=lambda: array("h"))
    #: Hits in every ``WINDOW`` frames, of the first so many windows.
    course: list[int] = field(default_factory=list)
    latency: Latencies = field(default_factory=Latencies)


@dataclass(frozen=True)
class Setting:
    """``fps``: of the camera; a device that is slower takes the next frame when it is ready. ``cold``: whether devices
    begin with no files but the base model's; else they have the bundle's, as after a first day."""

    device: machines.DeviceProfile
    link: LinkProfile
    server: machines.ServerProfile
    fps: float = 30.0
    cold: bool = False


class Device:
    """One device with one camera."""

    def __init__(
        self,
        env: simpy.Environment,
        setting: Setting,
        policy: Policy,
        kit: PolicyInputs,
        servers: Servers,
        seed: int,
        heard: Callable[[Answer], object] = lambda _answer: None,
        crowd: bool = False,
    ) -> None:
        """``crowd``: whether there are other devices."""
        self.tally = Tally()
        self._env, self._setting, self._kit, self._servers, self._heard = env, setting, kit, servers, heard
        self._meter = ModelTimer()
        self._mind: DecisionPolicy = mind(policy, kit, self._meter)
        up, down = lanes(setting.link, seed)
        outage = setting.link.outage_s
        self.up, self.down = Link(env, up, outage), Link(env, down, outage)
        self._breaker = CircuitBreaker()
        #: Its own time. Where nothing is on its way that it would notice, a device goes ahead of the others, for theirs
        #: is nothing to it: so its state stays in the processor's caches for many frames.
        self._now = 0.0
        self._on_the_way = 0
        self._late: deque[Reply] = deque()
        self._audited: deque[Reply] = deque()
        self._loaded: deque[str] = deque()
        #: The submodel that is on its way, and those whose files have come: an evicted one is loaded from the store.
        self._fetching: str | None = None
        #: Bytes that questions and their answers have taken.
        self._questions = 0
        self._stored: set[str] = set() if setting.cold else set(kit.manifest.models)
        self._generals = kit.manifest.generals()
        self._owning = policy == OWN
        self._threads = setting.device.threads if policy == "device-only" else kit.threads
        #: Seconds that every frame takes besides models. To compare two pictures, as the trivial policies do, is free.
        self._frame_s = (setting.device.frame_ms + (setting.device.decision_ms if policy == OWN else 0.0)) / 1e3
        #: Cameras do not all look at once.
        self._begins = random.Random(seed).random() / setting.fps if crowd else 0.0
        self._full = kit.manifest.only("full")
        self._bare = kit.film.pictures.logits[self._full]
        self._first = kit.film.pictures.first[self._full]
        #: Whether the true labels are known.
        self.has_truth = kit.film.truth is not None
        answer = protocol.Answer(bytes(4 * len(kit.manifest.labels)), 64 * "0", None, protocol.Timing(0.0, 0.0, 0.0, 1))
        self._answer_bytes = len(protocol.encode(answer)) + _ANSWER

    def run(self) -> Process:
        """Answer every frame of the film."""
        film, tally, profile = self._kit.film, self.tally, self._setting.device
        encode_s = profile.encode_ms / 1e3
        due = self._begins
        truth = self._first[film.rows] if film.truth is None else film.truth
        for index in range(len(film)):
            if due > self._now:
                yield from self._spend(due - self._now)
            due = max(due, self._now) + 1.0 / self._setting.fps  # a late frame does not make the next ones hurry
            started = self._now
            frame = film.frame(index)
            step = self._mind.lookup(frame, started)
            ran = self._meter.take()
            tally.busy_s += self._frame_s + self._threads * ran
            yield from self._spend(self._frame_s + ran)
            reply, trouble = None, ""
            if isinstance(step, Miss):
                reply, trouble = yield from self._ask(step)
            answer = self._mind.complete(step, reply, self._now, trouble)
            self._count(answer, self._now - started, int(truth[index]), int(self._first[frame.view]))
            if answer.audit:
                tally.asked += 1
                tally.busy_s += encode_s
                yield from self._spend(encode_s)
                yield from self._meet()
                self._send(frame.view, frame.index, (), _PATIENCE_S, True, self._audited.append)
            yield from self._listen()
        yield from self._meet()

    def _spend(self, seconds: float) -> Process:
        """Be busy, or wait, for so long."""
        self._now += seconds
        if self._on_the_way:
            yield from self._meet()

    def _meet(self) -> Process:
        """Wait for the others to come to this device's time: what it does next is something to them, or what they do
        to it."""
        if self._now > self._env.now:
            yield self._env.timeout(self._now - self._env.now)
        self._now = self._env.now

    def _ask(self, step: Miss) -> Process:
        """The reply, or None and why there is none, within the deadline; as the agent asks."""
        if step.on_device and (reply := (yield from self._on_device(step))) is not None:
            return reply, ""
        reply, trouble = yield from self._ask_cloud(step)
        if reply is None and (own := (yield from self._on_device(step))) is not None:
            return own, ""
        return reply, trouble

    def _on_device(self, step: Miss) -> Process:
        """The full model's answer on the device itself, if it is there and there is time."""
        if not isinstance(self._mind, Cascade):
            return None
        reply = self._mind.on_device(step, self._now)
        worked = self._meter.take()
        self.tally.busy_s += self._setting.device.threads * worked
        yield from self._spend(worked)
        return reply

    def _ask_cloud(self, step: Miss) -> Process:
        if not self._breaker.allows(self._now):
            return None, "cloud silent, circuit open"
        encode_s = self._setting.device.encode_ms / 1e3
        self.tally.asked += 1
        self.tally.busy_s += encode_s
        yield from self._spend(encode_s)
        yield from self._meet()
        env = self._env
        came = env.event()

        def hear(reply: Reply | None, trouble: str) -> None:
            if not came.triggered:
                came.succeed((reply, trouble))
            elif reply is not None:
                self._late.append(reply)

        self._send(step.frame.view, step.frame.index, step.recent, step.deadline - env.now, False, hear)
        after(env, step.deadline - env.now, lambda: came.triggered or came.succeed((None, "no answer in time")))
        reply, trouble = yield came
        self._now = env.now
        if trouble == "no answer in time":
            self._breaker.failed(self._now)
        else:
            self._breaker.succeeded()
        return reply, trouble

    def _send(
        self, row: int, index: int, recent: tuple[int, ...], budget_s: float, audit: bool, hear: Callable[..., object]
    ) -> None:
        """A picture up to a server, and its answer down."""
        broker_s = self._setting.server.broker_ms / 1e3

        def answered(logits: Any, advice: str | None, trouble: str) -> None:
            reply = None if logits is None else Reply(index, logits, advice)
            if reply is None and audit:
                self._on_the_way -= 1  # nobody tells a device that an audit was refused
                return
            after(self._env, broker_s, partial(self.down.carry, self._answer_bytes, partial(arrived, reply, trouble)))

        def arrived(reply: Reply | None, trouble: str) -> None:
            self._on_the_way -= 1
            hear(*((reply,) if audit else (reply, trouble)))

        request = ServerRequest(self._bare[row], recent, answered)
        # The server counts what is left of the budget from when the request comes: no clocks are compared.
        offer = partial(self._servers.offer, request, max(0.0, math.floor(budget_s * 1e3) / 1e3), audit)
        nbytes = int(self._kit.film.pictures.nbytes[row]) + REQUEST
        self._questions += nbytes + self._answer_bytes
        self._on_the_way += 1
        self.up.carry(nbytes, lambda: after(self._env, broker_s, offer))

    def _count(self, answer: Answer, seconds: float, truth: int, full: int) -> None:
        tally = self.tally
        if tally.frames % WINDOW == 0 and len(tally.course) < _COURSE:
            tally.course.append(0)
        if tally.frames < WINDOW * _COURSE:
            tally.course[-1] += answer.hit
        tally.frames += 1
        tally.hits += answer.hit
        tally.full += answer.level == "full"
        tally.fallbacks += answer.level == "fallback"
        tally.right += answer.label == truth
        tally.agreed += answer.label == full
        tally.labels.append(-1 if answer.label is None else answer.label)
        tally.latency.add(seconds * 1e3)
        self._heard(answer)

    def _listen(self) -> Process:
        """Between two frames, as the agent does: what has come since, and what is wanted."""
        while self._late:
            self._mind.on_late_reply(self._late.popleft(), self._now)
        while self._audited:
            self._mind.on_audit_reply(self._audited.popleft(), self._now)
        while self._loaded:
            name = self._loaded.popleft()
            self._mind.install(self._kit.model(name, self._meter))
            self._fetching = None
        wanted = self._mind.pending_fetch
        if self._fetching is not None:
            return
        cascade = self._mind if isinstance(self._mind, Cascade) else None
        cache = cascade.submodels if cascade is not None else None
        if wanted is None and self._generals and cache is not None:
            name = self._generals.pop(0)
            if cache.cost() + GROWTH * self._kit.manifest.models[name].bytes <= cache.budget:
                wanted = name
        if wanted is None:
            yield from self._fetch_full()
            return
        self._fetching, nbytes = wanted, self._kit.manifest.models[wanted].bytes
        if cascade is not None and cache is not None:  # as ``Deployment`` makes room
            cascade.evict_to(max(0, cache.budget - GROWTH * nbytes))
        if wanted in self._stored:
            self._loaded.append(wanted)
        else:
            self.tally.pushed += 1
            yield from self._fetch(wanted)

    def _fetch_full(self) -> Process:
        """As ``Deployment`` does: the full model itself, where asking for it takes longer than it would."""
        if not self._owning or not isinstance(self._mind, Cascade) or self._mind.full is not None:
            return
        if not self._mind.router.is_slow(self._kit.whole):
            return
        nbytes = self._kit.manifest.models[self._full].bytes
        if self._full in self._stored:
            self._fetching = self._full
            self._loaded.append(self._full)
        elif self._questions >= nbytes:
            self._fetching = self._full
            yield from self._fetch(self._full)

    def _fetch(self, name: str) -> Process:
        """Have a model's file come."""
        yield from self._meet()
        self._stored.add(name)
        self._on_the_way += 1
        self._pull(name, self._kit.manifest.models[name].bytes)

    def _pull(self, name: str, left: int) -> None:
        """What is left of a model's file, piece by piece."""
        if left <= 0:
            self._on_the_way -= 1
            self._loaded.append(name)
            return
        piece = min(left, PIECE)
        wait = 2 * self._setting.server.broker_ms / 1e3
        come = partial(self.down.carry, piece + _ANSWER, partial(self._pull, name, left - piece))
        self.up.carry(_GET, lambda: after(self._env, wait, come))
