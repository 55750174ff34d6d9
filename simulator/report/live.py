"""The demonstration: three policies over one stream and one link, with the real programs in real processes.

A broker, a cloud server, and for each policy in turn a fresh link of the same seed and an edge agent with an empty
store. What is reported comes from the agents' own lines and from the link's byte counts.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from cachenet.edge_agent.outputs.report import Line
from cachenet.models.data import cifar10, sample, streams
from cachenet.shared.bundle import zoo
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command.version import VERSION
from cachenet.shared.media import recording
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, MqttConnection
from cachenet.simulator.report import picture, report
from cachenet.simulator.report.report import CACHENET, DEVICE, SERVER, Outcome, Setting
from cachenet.simulator.report.view import ProgressView, Tail
from cachenet.simulator.world import links
from cachenet.simulator.world.emulator import Counts
from cachenet.simulator.world.processes import Failed, Process, Processes, answers, free_port

#: What each policy adds to the agent's command line.
POLICIES: dict[str, tuple[str, ...]] = {
    CACHENET: (),
    SERVER: ("--set", "levels=cloud"),
    DEVICE: ("--set", "levels=base", "--set", "base=full"),
}
#: Longest that a broker, server or link may take to start; a slow machine that does other things takes a while.
_START_S = 120.0
#: What a policy may take before it is skipped: so many times the stream's own time, for a machine that cannot keep up,
#: and beside it the time to start and to pull its models over the slowest link, seconds.
_TIMES, _GRACE_S = 3.0, 60.0
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Options:
    """``frames`` at ``fps`` of the ``stream`` of ``seed``, over the link called ``link``; results go to ``out``.
    ``slowdown``: how many times slower models run on the device than on this machine."""

    frames: int = 600
    fps: float = 30.0
    seed: int = 0
    stream: streams.Name = "camera"
    link: str = "wifi"
    bundle: Path = zoo.DIRECTORY / "cifar10"
    out: Path = Path("build")
    slowdown: float = 1.0


@dataclass(frozen=True)
class _Run:
    """One policy's run, as it was written down."""

    lines: list[Line]
    summary: report.Summary
    counts: Counts


class _Skipped(Exception):
    """A policy that did not come to its end; the text says why. The others go on."""


def compare(options: Options, console: Console) -> dict[str, Outcome]:
    """Run the demonstration, print the table, write ``demo.json`` and ``demo.png`` into ``options.out``. A policy that
    is too slow, or fails, is skipped and named.

    Raises ``UnknownLink``, ``BundleError``, ``StreamError``, ``DatasetError``, and ``Failed`` where broker, server or
    link end, or where there is nothing to show of CacheNet.
    """
    links.load(options.link)
    bundle = Bundle(options.bundle)
    setting = Setting(
        options.stream,
        options.seed,
        options.link,
        options.fps,
        {"cachenet": VERSION, "bundle": f"{bundle.manifest.name} {bundle.version}"},
        options.slowdown,
    )
    work = options.out / "demo"
    recorded = _record(options, work / "stream", console)
    with Processes(work / "logs") as processes:
        broker, _ = start_cloud(processes, bundle)
        console.print(f"Each policy answers {options.frames} frames; {setting}.")
        runs, skipped = {}, {}
        with ProgressView(console, list(POLICIES), options.frames) as view:
            for policy in POLICIES:
                try:
                    runs[policy] = _run(policy, options, bundle, recorded, work / policy, broker, processes, view)
                except _Skipped as why:
                    skipped[policy] = str(why)
                view.end(skipped=policy in skipped)
    full = report.full_answers(runs[SERVER].lines) if SERVER in runs else {}
    outcomes = {}
    for policy, run in runs.items():
        found = _added_up(run, full, options.frames)
        if isinstance(found, Outcome):
            outcomes[policy] = found
        else:
            skipped[policy] = found
    console.print()
    # On a terminal of fewer columns lines wrap; columns squeezed to nothing would hide the numbers.
    console.print(report.table(outcomes), width=max(console.width, report.TABLE_WIDTH), crop=False)
    console.print()
    for policy, reason in skipped.items():
        console.print(f"Skipped: {policy}: {reason}")
    console.print(report.sentence(setting, outcomes))
    (options.out / "demo.json").write_bytes(report.to_json(setting, outcomes, skipped))
    if CACHENET not in outcomes:
        raise Failed(f"there is no picture without {CACHENET}; on a slow machine give --fps 5, or --frames 100")
    picture.draw(options.out / "demo.png", runs[CACHENET].lines, outcomes, setting)
    console.print(f"Written: {options.out / 'demo.json'} and {options.out / 'demo.png'}")
    return outcomes


def _added_up(run: _Run, full: Mapping[int, str], frames: int) -> Outcome | str:
    """The outcome of a run, or why there is none."""
    try:
        return report.outcome(run.lines, run.summary, run.counts, full, frames)
    except report.Incomplete as why:
        return str(why)


def _record(options: Options, directory: Path, console: Console) -> Path:
    """The stream in ``directory``, recorded unless the very same one is there."""
    images = sample.load()
    plan = streams.plan(options.stream, images.labels, options.seed, options.frames)
    try:
        there = recording.read(directory)
    except recording.StreamError:
        there = None
    if there is not None:
        if (there.name, there.seed, there.truth) == (options.stream, options.seed, tuple(plan.label.tolist())):
            return directory
        shutil.rmtree(directory)  # another recording of this command; what is no recording is never removed
    console.print(f"Recording {options.frames} frames of stream {options.stream}, seed {options.seed}.")
    streams.record(plan, images.images, directory, cifar10.LABELS)
    return directory


def start_cloud(processes: Processes, bundle: Bundle, *flags: str) -> tuple[int, Process]:
    """Start broker and server, with these ``flags``; return the broker's port and the server once it has announced its
    bundle there."""
    port = free_port()
    broker = processes.start("broker", "cloud_server", "broker", "--port", str(port))
    processes.wait(broker, lambda: answers(port), _START_S, "listening")
    url = f"mqtt://127.0.0.1:{port}"
    server = processes.start(
        "server", "cloud_server", "run", "--bundle", str(bundle.directory), "--broker", url, *flags
    )
    announced = threading.Event()
    name = protocol.catalogue(bundle.manifest.name)
    ear = MqttConnection(Address("127.0.0.1", port), "simulator", [(name, 1)], lambda _message: announced.set())
    ear.start()
    try:
        processes.wait(server, announced.is_set, _START_S, "ready")
    finally:
        ear.stop()
    return port, server


def _run(
    policy: str,
    options: Options,
    bundle: Bundle,
    recorded: Path,
    directory: Path,
    broker: int,
    processes: Processes,
    view: ProgressView,
) -> _Run:
    """One policy over the recorded stream, through a link of its own. Raises ``_Skipped`` where the policy does not
    come to its end, and ``Failed`` where what all need does not run."""
    full = bundle.manifest.only("full") if policy == DEVICE else ""
    view.begin(policy)
    directory.mkdir(parents=True, exist_ok=True)
    lines, summary = directory / "answers.jsonl", directory / "summary.json"
    for old in (lines, summary):
        old.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="cachenet-demo-") as store:
        arguments = ["run", str(recorded), "--fps", str(options.fps), "--device", "demo", "--store", store]
        arguments += ["--output", str(lines), "--set", f"summary={summary}", *POLICIES[policy]]
        arguments += ["--set", f"slowdown={options.slowdown}"]
        link: Process | None = None
        if policy == DEVICE:
            arguments += ["--bundle", str(options.bundle)]
        else:
            link, port = start_link(policy, options.link, options.seed, broker, processes)
            arguments += ["--broker", f"mqtt://127.0.0.1:{port}"]
        agent = processes.start(f"agent-{policy}", "edge_agent", *arguments)
        try:
            _watch(agent, Tail(lines), options, processes, view, full)
        finally:  # before the store it works in is removed
            for process in filter(None, (agent, link)):
                processes.stop(process)
    counts = Counts(0, 0)
    try:
        if link is not None:
            counts = msgspec.json.decode(link.output.read_bytes(), type=Counts)
        told = msgspec.json.decode(summary.read_bytes(), type=report.Summary)
        answered = report.read_lines(lines)
    except (OSError, msgspec.DecodeError, report.Incomplete) as error:
        raise _Skipped(f"its figures cannot be read: {error}") from None
    return _Run(report.by_full_model(answered, full), told, counts)


def start_link(name: str, profile: str, seed: int, broker: int, processes: Processes) -> tuple[Process, int]:
    """An emulated link to the broker, and the port that a device connects to."""
    port = free_port()
    ends = ("--listen", str(port), "--to", f"127.0.0.1:{broker}")
    kind = ("--profile", profile, "--seed", str(seed), "--json")
    link = processes.start(f"link-{name}", "simulator", "link", *ends, *kind)
    # A trial connection would reach the broker, so its own word is taken instead.
    processes.wait(link, lambda: b"listening" in link.log.read_bytes(), _START_S, "listening")
    return link, port


def _watch(agent: Process, tail: Tail, options: Options, processes: Processes, view: ProgressView, full: str) -> None:
    """Show what the agent answers until it ends; ``full``: see ``report.by_full_model``. Raises ``_Skipped`` if the
    agent does not do its part, ``Failed`` if what it needs does not."""
    limit = _TIMES * options.frames / options.fps + options.slowdown * _GRACE_S
    until, answered = time.monotonic() + limit, 0
    while agent.running:
        if time.monotonic() > until:
            raise _Skipped(f"it had answered {answered} of {options.frames} frames after {limit:.0f} s")
        processes.check(but=agent)
        new = report.by_full_model(tail.read(), full)
        answered += len(new)
        view.add(new)
        time.sleep(_LOOK_EVERY_S)
    if not agent.succeeded:
        raise _Skipped(str(agent.failed("failed", f"its whole log is in {agent.log}")))
    view.add(report.by_full_model(tail.read(), full))
