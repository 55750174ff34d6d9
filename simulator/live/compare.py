"""The live comparison: three policies over one stream and one link, with the real programs in real processes.

One broker and one server run for all policies. Each policy in turn gets a new link of the same seed and an agent with
an empty store. The report comes from the agents' answers and the link's byte counts.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, MqttConnection
from cachenet.simulator.live.classification import Classification
from cachenet.simulator.live.detection import Detection
from cachenet.simulator.live.outcome import (
    CACHENET,
    DEVICE,
    POLICIES,
    TABLE_WIDTH,
    Incomplete,
    Outcome,
    Run,
    Setting,
    Summary,
    read_lines,
    to_json,
)
from cachenet.simulator.live.progress_view import ProgressView, Tail
from cachenet.simulator.live.task import LiveTask, Options
from cachenet.simulator.world import link_profiles
from cachenet.simulator.world.emulator import Counts
from cachenet.simulator.world.processes import Failed, Process, Processes, free_port, is_listening

#: Longest start of a broker, server or link on a busy machine, seconds.
_START_TIMEOUT_S = 120.0
#: Time after which a policy is skipped, as a multiple of the stream's duration.
_MOST_TIMES = 3.0
#: Additional time to start and to download models over the slowest link, seconds.
_GRACE_S = 60.0
_POLL_S = 0.1


class _Skipped(Exception):
    """A policy has failed or is too slow. The message says why. The other policies go on."""


def compare(options: Options, console: Console) -> dict[str, Outcome]:
    """Run the policies, print the table, and write ``demo.json`` and the task's files into ``options.out``.

    Raises:
        UserError: Link, bundle or stream cannot be used.
        Failed: Broker, server or link has ended, or CacheNet's policy was skipped.
        NoMatplotlib: The picture cannot be drawn.
    """
    bundle = Bundle(options.bundle)
    task = (Detection if bundle.manifest.task == "detection" else Classification)(options, bundle)
    link_profiles.load(options.link or task.link)
    work = options.out / "demo"
    with tempfile.TemporaryDirectory(prefix="cachenet-demo-") as directory, Processes(work / "logs") as processes:
        scratch = Path(directory)
        source, setting = task.prepare(scratch, console)
        broker, _ = start_cloud(processes, bundle)
        console.print(f"Each policy answers {setting.frames} frames; {setting}.")
        runs, skipped = {}, {}
        with ProgressView(console, POLICIES, setting.frames) as view:
            for policy in POLICIES:
                agent = _Agent(task, policy, setting, source, scratch / policy, work / policy)
                try:
                    runs[policy] = _run(agent, broker, processes, view)
                except _Skipped as why:
                    skipped[policy] = str(why)
                view.end(skipped=policy in skipped)
    outcomes: dict[str, Outcome] = {}
    for policy in runs:
        outcome = _outcome(task, policy, runs, setting)
        if isinstance(outcome, Outcome):
            outcomes[policy] = outcome
        else:
            skipped[policy] = outcome
    console.print()
    # On a narrower terminal lines wrap: Rich would cut numbers from the columns.
    console.print(task.table(outcomes), width=max(console.width, TABLE_WIDTH), crop=False)
    console.print()
    for policy, reason in skipped.items():
        console.print(f"Skipped: {policy}: {reason}")
    console.print(task.ranking(outcomes, setting))
    (options.out / "demo.json").write_bytes(to_json(setting, outcomes, skipped))
    if CACHENET not in outcomes:
        raise Failed(f"there is no picture without {CACHENET}; on a slow machine give --fps 5, or --frames 100")
    task.draw(options.out / "demo.png", runs, outcomes, setting)
    *files, last = (str(options.out / name) for name in ("demo.json", *task.files))
    console.print(f"Written: {', '.join(files)} and {last}")
    return outcomes


def _outcome(task: LiveTask, policy: str, runs: Mapping[str, Run], setting: Setting) -> Outcome | str:
    """The outcome of a run, or an error message."""
    try:
        return task.outcome(policy, runs, setting)
    except Incomplete as why:
        return str(why)


def start_cloud(processes: Processes, bundle: Bundle, *flags: str) -> tuple[int, Process]:
    """Start broker and server. Return the broker's port and the server, once it has announced its bundle.

    Args:
        flags: More flags of the server.
    """
    port = free_port()
    broker = processes.start("broker", "cloud_server", "broker", "--port", str(port))
    processes.wait(broker, lambda: is_listening(port), _START_TIMEOUT_S, "listening")
    url = f"mqtt://127.0.0.1:{port}"
    server = processes.start(
        "server", "cloud_server", "run", "--bundle", str(bundle.directory), "--broker", url, *flags
    )
    announced = threading.Event()
    topic = protocol.catalogue(bundle.manifest.name)
    listener = MqttConnection(Address("127.0.0.1", port), "simulator", [(topic, 1)], lambda _message: announced.set())
    listener.start()
    try:
        processes.wait(server, announced.is_set, _START_TIMEOUT_S, "ready")
    finally:
        listener.stop()
    return port, server


@dataclass(frozen=True)
class _Agent:
    """The agent of a policy.

    Attributes:
        source: What it reads.
        store: Its store.
        directory: Directory of its results.
    """

    task: LiveTask
    policy: str
    setting: Setting
    source: Path
    store: Path
    directory: Path

    @property
    def answers(self) -> Path:
        """File of its answers."""
        return self.directory / "answers.jsonl"

    @property
    def summary(self) -> Path:
        """File of its summary."""
        return self.directory / "summary.json"

    def start(self, processes: Processes, broker: int | None) -> Process:
        """Start it; ``broker``: port of its link, None for no link."""
        setting = self.setting
        arguments = ["run", str(self.source), "--fps", str(setting.fps), "--frames", str(setting.frames)]
        arguments += ["--device", "demo", "--store", str(self.store), "--output", str(self.answers)]
        if broker is None:
            arguments += ["--bundle", str(self.task.bundle.directory)]
        else:
            arguments += ["--broker", f"mqtt://127.0.0.1:{broker}"]
        environment = {"CACHENET_SUMMARY": str(self.summary), "CACHENET_SLOWDOWN": str(setting.slowdown)}
        environment |= self.task.environment(self.policy)
        return processes.start(f"agent-{self.policy}", "edge_agent", *arguments, environment=environment)


def _run(own: _Agent, broker: int, processes: Processes, view: ProgressView) -> Run:
    """Run one policy, through its own link to the port ``broker``.

    Raises:
        _Skipped: The agent has failed or is too slow.
        Failed: Another process has ended.
    """
    view.begin(own.policy)
    own.directory.mkdir(parents=True, exist_ok=True)
    for old in (own.answers, own.summary):
        old.unlink(missing_ok=True)
    link, port = (
        (None, None)
        if own.policy == DEVICE
        else start_link(own.policy, own.setting.link, own.setting.seed, broker, processes)
    )
    agent = own.start(processes, port)
    try:
        _follow(own, agent, processes, view)
    finally:
        for process in filter(None, (agent, link)):
            processes.stop(process)
    counts = Counts(0, 0)
    try:
        if link is not None:
            counts = msgspec.json.decode(link.output.read_bytes(), type=Counts)
        summary = msgspec.json.decode(own.summary.read_bytes(), type=Summary)
        lines = read_lines(own.answers)
    except (OSError, msgspec.DecodeError, Incomplete) as error:
        raise _Skipped(f"its results cannot be read: {error}") from None
    return Run(own.task.lines(own.policy, lines), summary, counts)


def start_link(name: str, profile: str, seed: int, broker: int, processes: Processes) -> tuple[Process, int]:
    """Start an emulated link to the port ``broker``; return it and the port for the device."""
    port = free_port()
    ends = ("--listen", str(port), "--to", f"127.0.0.1:{broker}")
    kind = ("--profile", profile, "--seed", str(seed), "--json")
    link = processes.start(f"link-{name}", "simulator", "link", *ends, *kind)
    # A trial connection would reach the broker, so the log tells that the link is ready.
    processes.wait(link, lambda: b"listening" in link.log.read_bytes(), _START_TIMEOUT_S, "listening")
    return link, port


def _follow(own: _Agent, agent: Process, processes: Processes, view: ProgressView) -> None:
    """Show the agent's answers until it ends.

    Raises:
        _Skipped: The agent has failed or is too slow.
        Failed: Another process has ended.
    """
    setting, tail = own.setting, Tail(own.answers)
    limit = _MOST_TIMES * setting.frames / setting.fps + setting.slowdown * _GRACE_S
    until, answered = time.monotonic() + limit, 0
    while agent.running:
        if time.monotonic() > until:
            raise _Skipped(f"it had answered {answered} of {setting.frames} frames after {limit:.0f} s")
        processes.check(but=agent)
        new = own.task.lines(own.policy, tail.read())
        answered += len(new)
        view.add(new)
        time.sleep(_POLL_S)
    if not agent.succeeded:
        raise _Skipped(str(agent.failed("failed", f"its log is {agent.log}")))
    view.add(own.task.lines(own.policy, tail.read()))
