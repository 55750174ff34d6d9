"""A simulated device with one camera. Its policy decides; time comes from the hardware and link profiles.

The device calls its policy as the agent's loop does. Simulated times are those of models, of a frame's handling and of
messages.
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

from cachenet.edge_agent.outputs.report import LatencyHistogram
from cachenet.edge_agent.updates.active_bundle import RESIDENT_BYTES_PER_FILE_BYTE
from cachenet.edge_agent.updates.downloader import CHUNK_BYTES
from cachenet.shared.cascade.cascade import Cascade
from cachenet.shared.cascade.circuit_breaker import CircuitBreaker
from cachenet.shared.cascade.types import Answer, Miss, Reply
from cachenet.shared.transport import protocol
from cachenet.simulator.policies.policies import (
    CACHENET,
    DecisionPolicy,
    ModelTimer,
    Policy,
    PolicyInputs,
    make_policy,
)
from cachenet.simulator.world.hardware_profiles import DeviceProfile, ServerProfile
from cachenet.simulator.world.link import Link, after
from cachenet.simulator.world.link_direction import directions
from cachenet.simulator.world.link_profiles import LinkProfile
from cachenet.simulator.world.servers import ServerRequest, Servers

Process = Generator[simpy.Event, Any, Any]

#: Bytes of a request in addition to its picture: topic, properties, correlation, MQTT and TCP headers.
REQUEST = 220
#: The same of an answer, bytes.
_ANSWER = 150
#: Size of a request for one piece of a model file, bytes.
_GET = 200
#: Longest time that an audit waits on the server, seconds (``edge_agent.remote``).
_AUDIT_TIMEOUT_S = 60.0
#: Frames of one point of the hit rate over time.
WINDOW = 25
#: Points of the hit rate over time that are kept at most.
_MOST_WINDOWS = 400
_TIMEOUT = "no answer in time"


@dataclass
class Tally:
    """Counters of one device.

    Attributes:
        frames: Frames answered.
        hits: Frames that a local level answered.
        full: Frames that the full model on the device answered.
        fallbacks: Frames without an answer in time.
        asked: Frames sent to a server, audits included.
        right: Answers that are the true label; meaningless where the truth is unknown.
        agreed: Answers that are the full model's.
        busy_s: Processor time, all processors together, seconds.
        pushed: Number of downloaded models.
        labels: Label of each answer; -1: ``unknown``.
        window_hits: Hits in each ``WINDOW`` frames, for the first ``_MOST_WINDOWS`` windows.
        latency: Latencies of the answers.
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
    window_hits: list[int] = field(default_factory=list)
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)


@dataclass(frozen=True)
class Scenario:
    """What a simulation runs on.

    Attributes:
        device: Profile of the devices.
        link: Profile of each device's link.
        server: Profile of the servers.
        fps: Frame rate of the cameras, frames per second. A slower device takes the next frame when it is ready.
        cold: Whether devices start with the base model only. Otherwise they hold all files of the bundle.
    """

    device: DeviceProfile
    link: LinkProfile
    server: ServerProfile
    fps: float = 30.0
    cold: bool = False


class Device:
    """One device with one camera.

    A device keeps its own clock. While no message is under way, other devices cannot affect it, so it runs ahead of
    the simulation's clock: its state stays in the processor's caches for many frames.
    """

    def __init__(
        self,
        env: simpy.Environment,
        scenario: Scenario,
        policy: Policy,
        inputs: PolicyInputs,
        servers: Servers,
        seed: int,
        on_answer: Callable[[Answer], object] = lambda _answer: None,
        shared: bool = False,
    ) -> None:
        """``shared``: whether other devices use the same servers: then the camera starts at a random phase."""
        self.tally = Tally()
        self._env, self._scenario, self._inputs, self._servers = env, scenario, inputs, servers
        self._on_answer = on_answer
        self._timer = ModelTimer()
        self._policy: DecisionPolicy = make_policy(policy, inputs, self._timer)
        up, down = directions(scenario.link, seed)
        outage = scenario.link.outage_s
        self.up, self.down = Link(env, up, outage), Link(env, down, outage)
        self._breaker = CircuitBreaker()
        self._now = 0.0
        self._under_way = 0
        #: Name of the device for the servers.
        self._name = str(seed)
        self._late: deque[Reply] = deque()
        self._audited: deque[Reply] = deque()
        self._loaded: deque[str] = deque()
        #: Name of the model that is being fetched.
        self._fetching: str | None = None
        #: Bytes of all requests and answers.
        self._request_bytes = 0
        #: Models whose files are on the device.
        self._stored: set[str] = set() if scenario.cold else set(inputs.manifest.models)
        self._generals = inputs.manifest.general_models()
        self._is_cachenet = policy == CACHENET
        self._threads = scenario.device.threads if policy == "device-only" else inputs.threads
        #: Time of a frame without models, seconds. The picture comparison of a trivial policy costs nothing.
        decision_ms = scenario.device.decision_ms if self._is_cachenet else 0.0
        self._frame_s = (scenario.device.frame_ms + decision_ms) / 1e3
        self._phase = random.Random(seed).random() / scenario.fps if shared else 0.0
        self._full = inputs.manifest.only("full")
        self._full_logits = inputs.trace.pictures.logits[self._full]
        self._full_labels = inputs.trace.pictures.labels[self._full]
        #: Whether the true labels are known.
        self.has_truth = inputs.trace.truth is not None
        timing = protocol.Timing(0.0, 0.0, 0.0, 1)
        answer = protocol.Answer(bytes(4 * len(inputs.manifest.labels)), 64 * "0", None, timing)
        self._answer_bytes = len(protocol.encode(answer)) + _ANSWER

    def run(self) -> Process:
        """Answer every frame of the trace."""
        trace, tally, profile = self._inputs.trace, self.tally, self._scenario.device
        encode_s = profile.encode_ms / 1e3
        due = self._phase
        truth = self._full_labels[trace.rows] if trace.truth is None else trace.truth
        for index in range(len(trace)):
            if due > self._now:
                yield from self._spend(due - self._now)
            due = max(due, self._now) + 1.0 / self._scenario.fps  # a late frame does not shorten the next interval
            started = self._now
            frame = trace.frame(index)
            step = self._policy.lookup(frame, started)
            ran = self._timer.take()
            tally.busy_s += self._frame_s + self._threads * ran
            yield from self._spend(self._frame_s + ran)
            reply, error = None, ""
            if isinstance(step, Miss):
                reply, error = yield from self._ask(step)
            answer = self._policy.complete(step, reply, self._now, error)
            self._count(answer, self._now - started, int(truth[index]), int(self._full_labels[frame.view]))
            if answer.audit:
                tally.asked += 1
                tally.busy_s += encode_s
                yield from self._spend(encode_s)
                yield from self._synchronise()
                self._send(frame.view, frame.index, (), _AUDIT_TIMEOUT_S, True, self._audited.append)
            yield from self._between_frames()
        yield from self._synchronise()

    def _spend(self, seconds: float) -> Process:
        """Work or wait for ``seconds``."""
        self._now += seconds
        if self._under_way:
            yield from self._synchronise()

    def _synchronise(self) -> Process:
        """Let the simulation's clock reach the device's clock, before events that affect others."""
        if self._now > self._env.now:
            yield self._env.timeout(self._now - self._env.now)
        self._now = self._env.now

    def _ask(self, step: Miss) -> Process:
        """The full model's reply and an error; the reply is None after the deadline."""
        if step.on_device and (reply := (yield from self._run_full(step))) is not None:
            return reply, ""
        reply, error = yield from self._ask_server(step)
        if reply is None and (own := (yield from self._run_full(step))) is not None:
            return own, ""
        return reply, error

    def _run_full(self, step: Miss) -> Process:
        """The reply of the full model on the device; None: it is not there, or time is too short."""
        if not isinstance(self._policy, Cascade):
            return None
        reply = self._policy.run_full(step, self._now)
        ran = self._timer.take()
        self.tally.busy_s += self._scenario.device.threads * ran
        yield from self._spend(ran)
        return reply

    def _ask_server(self, step: Miss) -> Process:
        if not self._breaker.allows(self._now):
            return None, "cloud silent, circuit open"
        encode_s = self._scenario.device.encode_ms / 1e3
        self.tally.asked += 1
        self.tally.busy_s += encode_s
        yield from self._spend(encode_s)
        yield from self._synchronise()
        env = self._env
        done = env.event()

        def on_reply(reply: Reply | None, error: str) -> None:
            if not done.triggered:
                done.succeed((reply, error))
            elif reply is not None:
                self._late.append(reply)

        self._send(step.frame.view, step.frame.index, step.recent, step.deadline - env.now, False, on_reply)
        after(env, step.deadline - env.now, lambda: done.triggered or done.succeed((None, _TIMEOUT)))
        reply, error = yield done
        self._now = env.now
        if error == _TIMEOUT:
            self._breaker.failed(self._now)
        else:
            self._breaker.succeeded()
        return reply, error

    def _send(
        self,
        row: int,
        index: int,
        recent: tuple[int, ...],
        budget_s: float,
        audit: bool,
        on_reply: Callable[..., object],
    ) -> None:
        """Send a picture to a server, whose answer comes back over the link."""
        broker_s = self._scenario.server.broker_ms / 1e3

        def answered(logits: Any, advice: str | None, error: str) -> None:
            reply = None if logits is None else Reply(index, logits, advice)
            if reply is None and audit:
                self._under_way -= 1  # a server does not report a refused audit
                return
            after(self._env, broker_s, partial(self.down.carry, self._answer_bytes, partial(arrived, reply, error)))

        def arrived(reply: Reply | None, error: str) -> None:
            self._under_way -= 1
            on_reply(*((reply,) if audit else (reply, error)))

        request = ServerRequest(self._name, self._full_logits[row], recent, answered)
        # The server measures the budget from the arrival of the request, so no clocks are compared.
        offer = partial(self._servers.offer, request, max(0.0, math.floor(budget_s * 1e3) / 1e3), audit)
        nbytes = int(self._inputs.trace.pictures.nbytes[row]) + REQUEST
        self._request_bytes += nbytes + self._answer_bytes
        self._under_way += 1
        self.up.carry(nbytes, lambda: after(self._env, broker_s, offer))

    def _count(self, answer: Answer, seconds: float, truth: int, full: int) -> None:
        tally = self.tally
        if tally.frames % WINDOW == 0 and len(tally.window_hits) < _MOST_WINDOWS:
            tally.window_hits.append(0)
        if tally.frames < WINDOW * _MOST_WINDOWS:
            tally.window_hits[-1] += answer.hit
        tally.frames += 1
        tally.hits += answer.hit
        tally.full += answer.level == "full"
        tally.fallbacks += answer.level == "fallback"
        tally.right += answer.label == truth
        tally.agreed += answer.label == full
        tally.labels.append(-1 if answer.label is None else answer.label)
        tally.latency.add(seconds * 1e3)
        self._on_answer(answer)

    def _between_frames(self) -> Process:
        """Handle late replies and audits, install loaded models, and start to fetch the next model, as the agent."""
        while self._late:
            self._policy.on_late_reply(self._late.popleft(), self._now)
        while self._audited:
            self._policy.on_audit_reply(self._audited.popleft(), self._now)
        while self._loaded:
            name = self._loaded.popleft()
            self._policy.install(self._inputs.model(name, self._timer))
            self._fetching = None
        wanted = self._policy.pending_fetch
        if self._fetching is not None:
            return
        cascade = self._policy if isinstance(self._policy, Cascade) else None
        cache = cascade.submodels if cascade is not None else None
        if wanted is None and self._generals and cache is not None:
            name = self._generals.pop(0)
            if (
                cache.cost() + RESIDENT_BYTES_PER_FILE_BYTE * self._inputs.manifest.models[name].bytes
                <= cache.max_bytes
            ):
                wanted = name
        if wanted is None:
            yield from self._fetch_full()
            return
        if cascade is not None and cache is not None:  # make room as ``ActiveBundle`` does
            cascade.evict_to(
                max(0, cache.max_bytes - RESIDENT_BYTES_PER_FILE_BYTE * self._inputs.manifest.models[wanted].bytes)
            )
        if wanted not in self._stored:
            self.tally.pushed += 1
        yield from self._fetch(wanted)

    def _fetch_full(self) -> Process:
        """Fetch the full model where the server answers more slowly than the device would, as ``ActiveBundle``."""
        if not self._is_cachenet or not isinstance(self._policy, Cascade) or self._policy.full is not None:
            return
        if not self._policy.router.is_slow(self._inputs.full_seconds):
            return
        if self._full in self._stored or self._request_bytes >= self._inputs.manifest.models[self._full].bytes:
            yield from self._fetch(self._full)

    def _fetch(self, name: str) -> Process:
        """Load a model from the device's store, or download its file."""
        self._fetching = name
        if name in self._stored:
            self._loaded.append(name)
            return
        yield from self._synchronise()
        self._stored.add(name)
        self._under_way += 1
        self._download(name, self._inputs.manifest.models[name].bytes)

    def _download(self, name: str, left: int) -> None:
        """Download the last ``left`` bytes of a model's file, piece by piece."""
        if left <= 0:
            self._under_way -= 1
            self._loaded.append(name)
            return
        piece = min(left, CHUNK_BYTES)
        wait = 2 * self._scenario.server.broker_ms / 1e3
        send = partial(self.down.carry, piece + _ANSWER, partial(self._download, name, left - piece))
        self.up.carry(_GET, lambda: after(self._env, wait, send))
