"""One episode of a fault run: agents, a server and a broker under faults, and one of each without."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from cachenet.edge_agent.updates.store import Store
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.media import recording
from cachenet.simulator.world.processes import free_port
from tests.bundles import LABELS, tiny_bundle
from tests.faults.camera import Camera
from tests.faults.fleet import FPS, Agent, Shared, start_shared
from tests.faults.proxy import Proxy
from tests.faults.schedule import BROKER, LINK, SERVER, Fault, schedule
from tests.faults.watch import RECOVERY_S

#: Frames of the clip, more than an episode lasts, and frames that show one picture.
_FRAMES, _REPEATS, _PICTURES = 6000, 4, 100
#: Longest time until all agents have an answer of the server, before the first fault and after the last one, seconds.
_ANSWERED_S = 90.0
#: Longest time from SIGTERM to the end of an agent, seconds.
_STOP_S = 30.0
#: Time between two looks at all processes, and between two readings of ``/metrics``, seconds.
_TICK_S, _METRICS_S = 0.05, 1.0


class Result(msgspec.Struct, frozen=True):
    """Result of an episode.

    Attributes:
        faults: Number of faults by kind.
        answers: Answers of the agents under faults.
        cloud: Those that are the server's.
        audits: Audits that were sent, and judged since the last update, of the processes that ended properly.
        faulty: Late frames and all frames by window, under faults.
        control: The same, without.
        seconds: Duration.
        violations: Broken invariants, one line each.
    """

    faults: dict[str, int]
    answers: int
    cloud: int
    audits: tuple[int, int]
    faulty: list[tuple[int, int]]
    control: list[tuple[int, int]]
    seconds: float
    violations: list[str]


def possible(agents: Sequence[Agent]) -> dict[str, tuple[str, ...]]:
    """Kinds of faults of each target on this machine."""
    return {"server": SERVER, "broker": BROKER} | {agent.name: agent.kinds for agent in agents}


def episode(
    work: Path, seed: str, faults: int, every_s: float, count: int, longest_s: float, say: Callable[[str], None]
) -> Result:
    """Run one episode in the empty directory ``work``.

    Args:
        every_s: Mean time between two faults, seconds.
        count: Number of agents; the clock of the first can be stepped, the camera of the last can vanish.
        longest_s: Longest fault, seconds.
        say: Called with a line about each fault and about progress.
    """
    begun = time.monotonic()
    bundles = [tiny_bundle(work / f"bundle{number}", number) for number in range(2)]
    pictures = _pictures()
    clip = _clip(work / "clip", pictures)
    port, quiet_port = free_port(), free_port()
    names = [*(f"agent{number}" for number in range(count)), "server"]
    proxies = {name: Proxy(port) for name in names}
    camera = Camera(pictures, FPS)
    agents: list[Agent] = []
    shared: list[Shared] = []
    ended = threading.Event()
    try:
        for proxy in proxies.values():
            proxy.start()
        shared += start_shared(work / "faulty", port, proxies["server"], bundles, _mosquitto())
        shared += start_shared(work / "control", quiet_port, None, bundles[:1], _mosquitto())
        for number, name in enumerate(names[:-1]):
            own = camera if number == count - 1 else None
            source = own.url if own is not None else str(clip)
            agents.append(Agent(name, work, proxies[name].port, source, number == 0, own))
        agents.append(Agent("control", work, quiet_port, str(clip), False, None))
        for agent in agents:
            _fill(agent.disk.directory, Bundle(bundles[0]))
        plan = schedule(seed, faults, every_s, possible(agents[:-1]), longest_s)
        run = _Run(agents, shared, proxies, begun, ended, say)
        run.start()
        run.until_answered("at the start")
        run.faults(plan)
        run.until_answered("after the last fault")
        summaries = [agent.finish(run.clock, _STOP_S) for agent in agents]
    finally:
        ended.set()
        for process in shared:
            process.process.kill()
        for agent in agents:
            agent.close()
        for proxy in proxies.values():
            proxy.stop()
        camera.close()
    *faulty, control = (agent.watch for agent in agents)
    sent = sum(summary.get("audited", 0) for summary in summaries[:-1])
    judged = sum((summary.get("audits") or {"judged": 0})["judged"] for summary in summaries[:-1] if summary)
    return Result(
        faults=dict(Counter(fault.kind for fault in plan)),
        answers=sum(watch.answers for watch in faulty),
        cloud=sum(watch.cloud for watch in faulty),
        audits=(sent, judged),
        faulty=[(late, all_) for watch in faulty for late, all_ in watch.windows.values()],
        control=[(late, all_) for late, all_ in control.windows.values()],
        seconds=round(time.monotonic() - begun, 1),
        violations=[line for watch in (*faulty, control) for line in watch.violations]
        + [line for one in shared for line in one.violations]
        + run.violations,
    )


class _Run:
    """The loop that does the faults and looks at all processes."""

    def __init__(
        self,
        agents: list[Agent],
        shared: list[Shared],
        proxies: dict[str, Proxy],
        begun: float,
        ended: threading.Event,
        say: Callable[[str], None],
    ) -> None:
        self.violations: list[str] = []
        self._agents, self._shared, self._proxies = agents, shared, proxies
        self._begun, self._ended, self._say = begun, ended, say
        self._targets: dict[str, Agent | Shared] = {agent.name: agent for agent in agents}
        self._targets |= {one.name: one for one in shared[:2]}
        #: Name of the agent, its number of starts, answers before the reading, and the reading.
        self._metrics: queue.SimpleQueue[tuple[Agent, int, int, dict[str, float]]] = queue.SimpleQueue()

    def clock(self) -> float:
        """Seconds since the start of the episode."""
        return time.monotonic() - self._begun

    def start(self) -> None:
        """Start all agents, and the reading of their metrics."""
        for agent in self._agents:
            agent.start(self.clock())
        threading.Thread(target=self._read_metrics, daemon=True).start()

    def faults(self, plan: Sequence[Fault]) -> None:
        """Do all faults, each at its time from now."""
        for agent in self._agents:
            agent.watch.restart_windows()
        begun = self.clock()
        changes = sorted([(fault.at, 1, fault) for fault in plan] + [(fault.end, 0, fault) for fault in plan])
        for at, begins, fault in changes:
            self._observe_until(lambda at=at: self.clock() - begun >= at)  # type: ignore[misc]
            if fault.kind == "read_only" and not begins:
                self._until_started(fault.target)
            target, now = self._targets[fault.target], self.clock()
            if fault.kind in LINK:
                self._proxies[fault.target].set(fault.kind if begins else "pass")  # type: ignore[arg-type]
            (target.begin if begins else target.end)(fault, now)
            self._say(f"{now:7.1f} s  {fault.target:8} {fault.kind:12} {'begins' if begins else 'ends'}")

    def _until_started(self, name: str) -> None:
        """Wait until the agent has answered since its start: a fault that ends before tests nothing."""
        (agent,) = (one for one in self._agents if one.name == name)
        deadline = self.clock() + RECOVERY_S
        self._observe_until(lambda: agent.watch.frames > 0 or self.clock() > deadline)
        if not agent.watch.frames:
            self.violations.append(f"{name}: no answer with a store that is read-only for {RECOVERY_S:.0f} s")

    def until_answered(self, when: str) -> None:
        """Wait until each agent has a further answer of the server."""
        before, deadline = {agent.name: agent.watch.cloud for agent in self._agents}, self.clock() + _ANSWERED_S

        def missing() -> list[str]:
            return [agent.name for agent in self._agents if agent.watch.cloud == before[agent.name]]

        self._observe_until(lambda: not missing() or self.clock() > deadline)
        self.violations += [f"{name}: no answer of the server {when} for {_ANSWERED_S:.0f} s" for name in missing()]

    def _observe_until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            now = self.clock()
            for agent in self._agents:
                agent.observe(now)
            for one in self._shared:
                one.observe(now)
            with contextlib.suppress(queue.Empty):
                while True:
                    agent, starts, before, values = self._metrics.get_nowait()
                    if agent.starts == starts:
                        agent.watch.metrics(now, before, values)
            time.sleep(_TICK_S)

    def _read_metrics(self) -> None:
        while not self._ended.wait(_METRICS_S):
            for agent in self._agents:
                starts, before = agent.starts, agent.watch.frames
                with contextlib.suppress(OSError, ValueError):
                    with urllib.request.urlopen(f"http://127.0.0.1:{agent.metrics_port}/metrics", timeout=2) as reply:
                        values = readings(reply.read().decode())
                    self._metrics.put((agent, starts, before, values))


def readings(text: str) -> dict[str, float]:
    """The sums of the counters that ``Watch.metrics`` checks, from the text of ``/metrics``."""
    found = {"levels": 0.0, "errors": 0.0, "threads": 0.0}
    names = {"cachenet_frames_total": "levels", "cachenet_frame_errors_total": "errors"}
    names["cachenet_thread_failures_total"] = "threads"
    for line in text.splitlines():
        if (key := names.get(line.split("{")[0])) is not None:
            found[key] += float(line.rsplit(" ", 1)[1])
    return found


def _pictures() -> list[np.ndarray]:
    blocks = np.random.default_rng(0).integers(0, 256, (_PICTURES, 12, 16, 3), np.uint8)
    return [block.repeat(4, 0).repeat(4, 1) for block in blocks]


def _clip(directory: Path, pictures: Sequence[np.ndarray]) -> Path:
    """A recorded stream that shows the pictures again and again. Frames of one picture are links to one file."""
    described = recording.Recording(
        name="blocks", seed=0, frames=len(pictures), fps=FPS, labels=LABELS, truth=None, files="%06d.png"
    )
    distinct = directory.with_name("pictures")
    recording.write(distinct, described, pictures)
    directory.mkdir()
    for number in range(_FRAMES):
        shown = number // _REPEATS % len(pictures)
        os.link(distinct / (described.files % shown), directory / (described.files % number))
    whole = msgspec.structs.replace(described, frames=_FRAMES)
    (directory / recording.MANIFEST).write_bytes(msgspec.json.encode(whole))
    return directory


def _fill(directory: Path, bundle: Bundle) -> None:
    """Write a store that holds the bundle, with its base model."""
    store, base = Store(directory), bundle.manifest.models["base"]
    store.append(base.sha256, bundle.path("base").read_bytes())
    store.finish(base.sha256)
    store.stage(bundle.data, bundle.manifest)
    store.promote(bundle.manifest.name, bundle.version)
    store.commit(bundle.manifest.name)


def _mosquitto() -> str:
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SystemExit("mosquitto is missing; `make test` says how to install it")
    return program
