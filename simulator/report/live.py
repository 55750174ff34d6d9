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

from cachenet.edge_agent.outputs.report import AnswerLine
from cachenet.models.data import cifar10, sample, streams
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command.version import VERSION
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, MqttConnection
from cachenet.simulator.report import live_picture, live_report
from cachenet.simulator.report.live_report import CACHENET, DEVICE, SERVER, Outcome, Setting
from cachenet.simulator.report.progress_view import ProgressView, Tail
from cachenet.simulator.world import link_profiles
from cachenet.simulator.world.emulator import Counts
from cachenet.simulator.world.processes import Failed, Process, Processes, free_port, is_listening

#: Settings of each policy's agent, as variables of its environment.
POLICIES: dict[str, dict[str, str]] = {
    CACHENET: {},
    SERVER: {"CACHENET_LEVELS": "cloud"},
    DEVICE: {"CACHENET_LEVELS": "base", "CACHENET_BASE": "full"},
}
#: Longest start of a broker, server or link on a busy machine, seconds.
_START_TIMEOUT_S = 120.0
#: Time after which a policy is skipped, as a multiple of the stream's duration.
_MOST_TIMES = 3.0
#: Additional time to start and to download models over the slowest link, seconds.
_GRACE_S = 60.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Options:
    """Options of a live comparison.

    Attributes:
        frames: Frames of the stream.
        fps: Frame rate, frames per second.
        seed: Seed of the stream and of the link.
        stream: Kind of stream.
        link: Name of the link profile.
        bundle: The bundle.
        out: Directory of the results.
        slowdown: Factor by which models run slower on the device than on this machine.
    """

    frames: int = 600
    fps: float = 30.0
    seed: int = 0
    stream: streams.StreamName = "camera"
    link: str = "wifi"
    bundle: Path = zoo.DIRECTORY / "cifar10"
    out: Path = Path("build")
    slowdown: float = 1.0


@dataclass(frozen=True)
class _Run:
    """Files of one policy's run."""

    lines: list[AnswerLine]
    summary: live_report.Summary
    counts: Counts


class _Skipped(Exception):
    """A policy has failed or is too slow. The message says why. The other policies go on."""


def compare(options: Options, console: Console) -> dict[str, Outcome]:
    """Run the policies, print the table, write ``demo.json`` and ``demo.png`` into ``options.out``.

    Raises:
        UnknownLink, BundleError, StreamError, DatasetError: An input does not fit.
        Failed: Broker, server or link has ended, or CacheNet's policy was skipped.
        NoMatplotlib: The picture cannot be drawn.
    """
    link_profiles.load(options.link)
    bundle = Bundle(options.bundle)
    versions = {"cachenet": VERSION, "bundle": f"{bundle.manifest.name} {bundle.version}"}
    setting = Setting(options.stream, options.seed, options.link, options.fps, versions, options.slowdown)
    work = options.out / "demo"
    with tempfile.TemporaryDirectory(prefix="cachenet-demo-") as directory, Processes(work / "logs") as processes:
        scratch = Path(directory)
        _record(options, scratch / "stream", console)
        broker, _ = start_cloud(processes, bundle)
        console.print(f"Each policy answers {options.frames} frames; {setting}.")
        runs, skipped = {}, {}
        with ProgressView(console, list(POLICIES), options.frames) as view:
            for policy in POLICIES:
                try:
                    runs[policy] = _run(policy, options, bundle, scratch, work / policy, broker, processes, view)
                except _Skipped as why:
                    skipped[policy] = str(why)
                view.end(skipped=policy in skipped)
    full = live_report.full_answers(runs[SERVER].lines) if SERVER in runs else {}
    outcomes = {}
    for policy, run in runs.items():
        outcome = _outcome(run, full, options.frames)
        if isinstance(outcome, Outcome):
            outcomes[policy] = outcome
        else:
            skipped[policy] = outcome
    console.print()
    # On a narrower terminal lines wrap: Rich would cut numbers from the columns.
    console.print(live_report.table(outcomes), width=max(console.width, live_report.TABLE_WIDTH), crop=False)
    console.print()
    for policy, reason in skipped.items():
        console.print(f"Skipped: {policy}: {reason}")
    console.print(live_report.ranking(setting, outcomes))
    (options.out / "demo.json").write_bytes(live_report.to_json(setting, outcomes, skipped))
    if CACHENET not in outcomes:
        raise Failed(f"there is no picture without {CACHENET}; on a slow machine give --fps 5, or --frames 100")
    live_picture.draw(options.out / "demo.png", runs[CACHENET].lines, outcomes, setting)
    console.print(f"Written: {options.out / 'demo.json'} and {options.out / 'demo.png'}")
    return outcomes


def _outcome(run: _Run, full: Mapping[int, str], frames: int) -> Outcome | str:
    """The outcome of a run, or an error message."""
    try:
        return live_report.outcome(run.lines, run.summary, run.counts, full, frames)
    except live_report.Incomplete as why:
        return str(why)


def _record(options: Options, directory: Path, console: Console) -> None:
    """Write the stream."""
    images = sample.load()
    plan = streams.schedule(options.stream, images.labels, options.seed, options.frames)
    console.print(f"Recording {options.frames} frames of stream {options.stream}, seed {options.seed}.")
    streams.record_stream(plan, images.images, directory, cifar10.LABELS)


def start_cloud(processes: Processes, bundle: Bundle) -> tuple[int, Process]:
    """Start broker and server. Return the broker's port and the server, once it has announced its bundle."""
    port = free_port()
    broker = processes.start("broker", "cloud_server", "broker", "--port", str(port))
    processes.wait(broker, lambda: is_listening(port), _START_TIMEOUT_S, "listening")
    url = f"mqtt://127.0.0.1:{port}"
    server = processes.start("server", "cloud_server", "run", "--bundle", str(bundle.directory), "--broker", url)
    announced = threading.Event()
    topic = protocol.catalogue(bundle.manifest.name)
    listener = MqttConnection(Address("127.0.0.1", port), "simulator", [(topic, 1)], lambda _message: announced.set())
    listener.start()
    try:
        processes.wait(server, announced.is_set, _START_TIMEOUT_S, "ready")
    finally:
        listener.stop()
    return port, server


def _run(
    policy: str,
    options: Options,
    bundle: Bundle,
    scratch: Path,
    directory: Path,
    broker: int,
    processes: Processes,
    view: ProgressView,
) -> _Run:
    """Run one policy over the stream in ``scratch``, through its own link to the port ``broker``.

    Raises:
        _Skipped: The agent has failed or is too slow.
        Failed: Another process has ended.
    """
    full = bundle.manifest.only("full") if policy == DEVICE else ""
    view.begin(policy)
    directory.mkdir(parents=True, exist_ok=True)
    lines, summary = directory / "answers.jsonl", directory / "summary.json"
    for old in (lines, summary):
        old.unlink(missing_ok=True)
    environment = {"CACHENET_SUMMARY": str(summary), "CACHENET_SLOWDOWN": str(options.slowdown), **POLICIES[policy]}
    arguments = ["run", str(scratch / "stream"), "--fps", str(options.fps), "--device", "demo"]
    arguments += ["--store", str(scratch / policy), "--output", str(lines)]
    link: Process | None = None
    if policy == DEVICE:
        arguments += ["--bundle", str(options.bundle)]
    else:
        link, port = _start_link(policy, options, broker, processes)
        arguments += ["--broker", f"mqtt://127.0.0.1:{port}"]
    agent = processes.start(f"agent-{policy}", "edge_agent", *arguments, environment=environment)
    try:
        _follow(agent, Tail(lines), options, processes, view, full)
    finally:
        for process in filter(None, (agent, link)):
            processes.stop(process)
    counts = Counts(0, 0)
    try:
        if link is not None:
            counts = msgspec.json.decode(link.output.read_bytes(), type=Counts)
        totals = msgspec.json.decode(summary.read_bytes(), type=live_report.Summary)
        answered = live_report.read_lines(lines)
    except (OSError, msgspec.DecodeError, live_report.Incomplete) as error:
        raise _Skipped(f"its results cannot be read: {error}") from None
    return _Run(live_report.by_full_model(answered, full), totals, counts)


def _start_link(policy: str, options: Options, broker: int, processes: Processes) -> tuple[Process, int]:
    """Start an emulated link to the broker; return it and the port for the device."""
    port = free_port()
    ends = ("--listen", str(port), "--to", f"127.0.0.1:{broker}")
    kind = ("--profile", options.link, "--seed", str(options.seed), "--json")
    link = processes.start(f"link-{policy}", "simulator", "link", *ends, *kind)
    # A trial connection would reach the broker, so the log tells that the link is ready.
    processes.wait(link, lambda: b"listening" in link.log.read_bytes(), _START_TIMEOUT_S, "listening")
    return link, port


def _follow(agent: Process, tail: Tail, options: Options, processes: Processes, view: ProgressView, full: str) -> None:
    """Show the agent's answers until it ends; ``full``: see ``live_report.by_full_model``.

    Raises:
        _Skipped: The agent has failed or is too slow.
        Failed: Another process has ended.
    """
    limit = _MOST_TIMES * options.frames / options.fps + options.slowdown * _GRACE_S
    until, answered = time.monotonic() + limit, 0
    while agent.running:
        if time.monotonic() > until:
            raise _Skipped(f"it had answered {answered} of {options.frames} frames after {limit:.0f} s")
        processes.check(but=agent)
        new = live_report.by_full_model(tail.read(), full)
        answered += len(new)
        view.add(new)
        time.sleep(_POLL_S)
    if not agent.succeeded:
        raise _Skipped(str(agent.failed("failed", f"its log is {agent.log}")))
    view.add(live_report.by_full_model(tail.read(), full))
