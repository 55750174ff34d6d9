"""The comparison: every policy on the same traces, with one device, link and server, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from rich.progress import Progress
from rich.table import Table

from cachenet.edge_agent.outputs.report import LatencyHistogram
from cachenet.models.certify.traces import Models
from cachenet.models.data import streams
from cachenet.models.data.cifar10 import LABELS, Split
from cachenet.models.export import cost
from cachenet.models.export.cost import Cost
from cachenet.models.report.confidence_interval import interval
from cachenet.shared.bundle.manifest import Bundle, Manifest
from cachenet.shared.cascade.reference import disagreements
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT
from cachenet.shared.command import jobs
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.graph_split import cut, read
from cachenet.simulator.policies import trivial
from cachenet.simulator.policies.policies import CACHENET, POLICIES, Policy, PolicyInputs
from cachenet.simulator.policies.trivial import TRIVIAL, Setting, Trivial
from cachenet.simulator.traces.trace import (
    EXIT_KIND,
    Index,
    Recorder,
    Trace,
    open_exits,
    record_directory,
    record_streams,
)
from cachenet.simulator.world import hardware_profiles, link_profiles, servers
from cachenet.simulator.world.device import WINDOW, Device, Scenario, Tally
from cachenet.simulator.world.hardware_profiles import DeviceProfile
from cachenet.simulator.world.simulate import simulate

#: Policies without a cache. A policy must beat the better of them.
BASELINES: tuple[Policy, ...] = ("server-only", "device-only")
LATENCIES = ("mean", "p50", "p95", "p99")
#: Agreement that a baseline may lack, against the other one, and still count as a baseline.
_FAIR = 0.02
#: Columns of a terminal that ``table`` needs.
TABLE_WIDTH = 150

Row = dict[str, float]
#: Means and intervals of a comparison by policy.
Found = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Setup:
    """Settings of a comparison.

    Attributes:
        stream: Kind of stream, or the directory of a recorded one.
        dwell: See ``streams.schedule``.
        device, link, server: Names of profiles, or files.
        seeds: Seeds of streams, links and audits.
        frames: Length of a stream; that of the recording for a recorded one.
        fps: Frame rate of the cameras, frames per second.
        deadline_ms: Longest time of a frame, milliseconds.
        max_disagreement: Risk budget.
        devices: Cameras behind the same servers, each with its own stream.
        replicas: Number of servers.
        cold: See ``Scenario``.
        policies: Policies to compare.
    """

    stream: str = "dwell"
    dwell: int = streams.DWELL
    device: str = "rpi4"
    link: str = "wifi"
    server: str = "host"
    seeds: range = range(1000, 1020)
    frames: int = 1000
    fps: float = 30.0
    deadline_ms: float = 250.0
    max_disagreement: float = MAX_DISAGREEMENT
    devices: int = 1
    replicas: int = 1
    cold: bool = False
    policies: tuple[Policy, ...] = POLICIES

    @property
    def is_recorded(self) -> bool:
        """Whether the stream is a recorded one."""
        return self.stream not in streams.STREAM_NAMES


@dataclass(frozen=True)
class Bench:
    """A bundle with the traces of its models.

    Attributes:
        bundle: The bundle.
        costs: Cost of a run by model.
        exit_costs: Cost of the full model until each early exit answers, last the cost without an exit's answer.
        traces: A trace for each device and seed.
        thresholds: Thresholds of the trivial policies.
    """

    bundle: Bundle
    costs: dict[str, Cost]
    exit_costs: list[Cost]
    traces: list[Trace]
    thresholds: dict[Trivial, Setting] = field(default_factory=dict)

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest


@dataclass(frozen=True)
class Run:
    """One policy's run of one seed.

    Attributes:
        row: The measures.
        latency: Latencies of all devices.
        hit_rate: Hit rate over time of the first device, one value for each ``WINDOW`` frames.
    """

    row: Row
    latency: LatencyHistogram
    hit_rate: list[float]


Runs = dict[Policy, list[Run]]


def costs(bundle: Bundle) -> dict[str, Cost]:
    """Cost of a run of each model."""
    return {
        name: cost.model_cost(onnx.load(str(bundle.path(name))), model.input.size)
        for name, model in bundle.manifest.models.items()
    }


def exit_costs(bundle: Bundle) -> list[Cost]:
    """See ``Bench``; empty without early exits."""
    manifest = bundle.manifest
    if EXIT_KIND not in manifest.layers:
        return []
    full, exits = manifest.models[manifest.only("full")], manifest.layers[EXIT_KIND].caches
    pieces = cut(read(bundle.find(full).read_bytes()), [one.tensors for one in exits])
    found, operators, head_macs = [], 0, 0
    for piece, one in zip(pieces, exits, strict=False):
        head = onnx.load(str(bundle.find(one)))
        operators += cost.operators(onnx.load_from_string(piece.model)) + cost.operators(head)
        head_macs += cost.parameters(head)  # about one multiply-add for each weight
        found.append(Cost(round(one.share * full.macs) + head_macs, operators, False))
    operators += cost.operators(onnx.load_from_string(pieces[-1].model))
    return [*found, Cost(full.macs + head_macs, operators, False)]


class Incomparable(UserError):
    """The bundle does not fit the stream. The message says why."""


def check(setup: Setup) -> None:
    """Raise ``UnknownMachine`` or ``UnknownLink`` for a profile that does not exist."""
    hardware_profiles.device(setup.device), hardware_profiles.server(setup.server), link_profiles.load(setup.link)


def for_bundle(setup: Setup, manifest: Manifest) -> Setup:
    """``setup`` without ``cachenet-paper`` where the bundle has no submodels for it. Raises ``Incomparable``."""
    if not setup.is_recorded and manifest.labels != LABELS:
        raise Incomparable(f"streams are of CIFAR-10's labels, and {manifest.name} has others; record one of your own")
    if manifest.entropy:
        return setup
    return replace(setup, policies=tuple(one for one in setup.policies if one != "cachenet-paper"))


def describe(setup: Setup, images: str) -> str:
    """The settings of a comparison as text."""
    of = "the same pictures for every seed" if setup.is_recorded else f"of {images} images"
    several = f" for each of {setup.devices} cameras behind {setup.replicas} servers" if setup.devices > 1 else ""
    return (
        f"Stream {setup.stream}, {of}, device {setup.device}, link {setup.link}, server {setup.server}, "
        f"{len(setup.seeds)} seeds from {setup.seeds.start}, {setup.frames} frames{several}; "
        f"± is half a 95 % interval. Budget: {setup.max_disagreement:.1%} disagreement. The thresholds of "
        f"{', '.join(TRIVIAL)} are chosen in hindsight, on these very frames."
    )


def prepare(
    bundle: Bundle, setup: Setup, split: Split, models: Models, progress: Progress, run: jobs.Run = jobs.in_process
) -> Bench:
    """Run every model over every stream, once. Raises ``StreamError`` for a recorded stream."""
    count = len(setup.seeds) * setup.devices
    task = progress.add_task("running models", total=setup.frames if setup.is_recorded else count)

    def advance() -> None:
        progress.advance(task)

    manifest = bundle.manifest
    full, base = manifest.only("full"), manifest.only("base")
    recorder = Recorder(bundle, models, full, open_exits(bundle))
    if setup.is_recorded:
        traces = [record_directory(Path(setup.stream), manifest.labels, recorder, advance)]
    else:
        seeds = [seed * setup.devices + number for seed in setup.seeds for number in range(setup.devices)]
        name = streams.named(setup.stream)
        traces = record_streams(name, seeds, setup.frames, split, recorder, advance, setup.dwell, run)
    progress.remove_task(task)
    temperature = manifest.models[base].temperature
    inputs = [trivial.inputs_of(trace, base, temperature) for trace in traces]
    thresholds = {
        name: trivial.choose(name, traces, full, inputs, setup.max_disagreement)
        for name in TRIVIAL
        if name in setup.policies
    }
    traces = traces * (count if setup.is_recorded else 1)
    return Bench(bundle, costs(bundle), exit_costs(bundle), traces, thresholds)


def compare(
    bench: Bench,
    setup: Setup,
    link: link_profiles.LinkProfile | None,
    progress: Progress,
    run: jobs.Run = jobs.in_process,
) -> Runs:
    """Runs by policy and seed. ``link`` replaces the link of ``setup``; ``run``: where the policies are simulated."""
    parts = [(place, policy) for place in range(len(setup.seeds)) for policy in setup.policies]
    task = progress.add_task("simulating", total=len(parts))
    device, server = hardware_profiles.device(setup.device), hardware_profiles.server(setup.server)
    scenario = Scenario(device, link or link_profiles.load(setup.link), server, setup.fps, setup.cold)
    runs: Runs = {policy: [] for policy in setup.policies}
    for (_, policy), one in zip(parts, run(_simulate, (bench, setup, scenario), parts), strict=True):
        runs[policy].append(one)
        progress.advance(task)
    progress.remove_task(task)
    return runs


def _simulate(shared: tuple[Bench, Setup, Scenario], part: tuple[int, Policy]) -> Run:
    """The run of a policy over the traces of one seed, which is given by its place."""
    (bench, setup, scenario), (place, policy) = shared, part
    seed, full, device = setup.seeds[place], bench.manifest.only("full"), scenario.device
    traces = bench.traces[place * setup.devices : (place + 1) * setup.devices]
    inputs = [
        policy_inputs(bench, device, setup, trace, f"device-{seed}-{number}") for number, trace in enumerate(traces)
    ]
    devices = simulate(policy, inputs, scenario, bench.costs[full], seed, setup.replicas)
    return _run(devices, device, [trace.labels(full) for trace in traces])


def policy_inputs(bench: Bench, device: DeviceProfile, setup: Setup, trace: Trace, name: str) -> PolicyInputs:
    """Inputs of the policies on the device ``name``."""
    manifest = bench.manifest
    threads = device.local_threads(bench.costs[manifest.only("base")])
    return PolicyInputs(
        trace,
        manifest,
        setup.max_disagreement,
        setup.deadline_ms / 1e3,
        {model: device.seconds(cost_, threads) for model, cost_ in bench.costs.items()},
        device.seconds(bench.costs[manifest.only("full")], device.threads),
        bench.thresholds,
        name,
        threads,
        tuple(device.seconds(cost_, device.threads) for cost_ in bench.exit_costs),
    )


def _run(devices: Sequence[Device], profile: DeviceProfile, full: Sequence[Index]) -> Run:
    """Measures over all devices; ``full``: labels of the full model by device."""
    tallies = [one.tally for one in devices]
    frames = sum(tally.frames for tally in tallies)
    latency = tallies[0].latency
    for tally in tallies[1:]:
        latency = latency.with_(tally.latency)

    def share(of: Callable[[Tally], int]) -> float:
        return sum(of(tally) for tally in tallies) / frames

    wrong = [
        int(disagreements(np.array(tally.labels, np.int64), labels).sum())
        for tally, labels in zip(tallies, full, strict=True)
    ]
    row = {name: value for name, value in latency.table().items() if name in LATENCIES}
    row |= {
        "fps": 1e3 / latency.mean,
        "local_share": share(lambda tally: tally.hits),
        "full_share": share(lambda tally: tally.full),
        "fallback_share": share(lambda tally: tally.fallbacks),
        "asked_share": share(lambda tally: tally.asked),
        "disagreement": sum(wrong) / frames,
        "agreement": share(lambda tally: tally.agreed),
        "unknown_share": share(lambda tally: sum(label < 0 for label in tally.labels)),
        "bytes_up": sum(one.up.bytes for one in devices) / frames,
        "bytes_down": sum(one.down.bytes for one in devices) / frames,
        "models_pushed": share(lambda tally: tally.pushed) * frames / len(devices),
    }
    if all(one.has_truth for one in devices):
        row["accuracy"] = share(lambda tally: tally.right)
    if (watts := profile.watts) is not None:
        busy = sum(tally.busy_s for tally in tallies)
        sent, received = sum(one.up.busy_s for one in devices), sum(one.down.busy_s for one in devices)
        row["millijoules"] = 1e3 * (watts.busy - watts.idle) * busy / frames
        row["radio_millijoules"] = 1e3 * (watts.send * sent + watts.receive * received) / frames
    complete = tallies[0].window_hits[: tallies[0].frames // WINDOW]
    return Run(row, latency, [hits / WINDOW for hits in complete])


def fair(rows: Mapping[Policy, Sequence[Row]]) -> list[Policy]:
    """The baselines that give the full model's answers. Without answers in time, ``server-only`` is no baseline."""
    known = {name: sum(row["agreement"] for row in rows[name]) / len(rows[name]) for name in BASELINES if name in rows}
    return [name for name, agreement in known.items() if agreement >= max(known.values()) - _FAIR]


def summary(runs: Runs) -> dict[str, dict[str, Any]]:
    """Means over seeds by policy, and under ``intervals`` their 95 % intervals.

    The ratios divide the mean latency of the best baseline, or of the oracle, by the policy's: more is faster.
    """
    found: dict[str, dict[str, Any]] = {}
    rows = {policy: [run.row for run in own] for policy, own in runs.items()}
    baselines = fair(rows)
    for policy, own in rows.items():
        series: dict[str, Any] = {name: [row[name] for row in own] for name in own[0]}
        if baselines:
            series["ratio_to_best_baseline"] = [
                min(rows[name][place]["mean"] for name in baselines) / row["mean"] for place, row in enumerate(own)
            ]
        if "oracle" in rows:
            series["ratio_to_oracle"] = [rows["oracle"][n]["mean"] / row["mean"] for n, row in enumerate(own)]
        spans = {name: interval(values) for name, values in series.items()}
        means: dict[str, Any] = {"latency_ms": {name: spans[name]["mean"] for name in LATENCIES}}
        means |= {name: span["mean"] for name, span in spans.items() if name not in LATENCIES}
        found[policy] = {**means, "intervals": {name: span["interval"] for name, span in spans.items()}}
    return found


def to_json(bench: Bench, setup: Setup, found: Found, images: str, sweep: Mapping[str, Any] | None = None) -> bytes:
    """The comparison with all settings. ``sweep``: see ``sweep.to_builtins``."""
    result: dict[str, Any] = {
        "frames": setup.frames,
        "seeds": len(setup.seeds),
        "setting": {
            **{name: value for name, value in vars(setup).items() if name != "seeds"},
            "first_seed": setup.seeds.start,
            "bundle": f"{bench.manifest.name} {bench.bundle.version}",
            "images": images,
            "server_queue": servers.QUEUE,
            "server_max_batch": servers.MAX_BATCH,
            "link_profile": msgspec.to_builtins(link_profiles.load(setup.link)),
            "device_profile": msgspec.to_builtins(hardware_profiles.device(setup.device), str_keys=True),
            "server_profile": msgspec.to_builtins(hardware_profiles.server(setup.server)),
        },
        "policies": found,
    }
    if sweep is not None:
        result["sweep"] = sweep
    return msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"


def cells(found: Found) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table: means over seeds, and half the width of the interval of the mean latency."""
    powered = all("millijoules" in of for of in found.values())
    head = ["policy", "mean ms", "p50", "p95", "p99", "fps", "local\n%", "asked\n%", "disagree-\nment %"]
    head += ["agree-\nment %", "truth\n%", "bytes up\na frame", "bytes\ndown", "models\npushed"]
    head += ["times the\nbaseline", "of the\noracle", *(["mJ a\nframe"] if powered else [])]
    rows = []
    for policy, of in found.items():
        latency, low = of["latency_ms"], of["intervals"]["mean"][0]
        row = [policy, f"{latency['mean']:.2f} ±{latency['mean'] - low:.2f}"]
        row += [f"{latency[name]:.1f}" for name in LATENCIES[1:]] + [f"{of['fps']:.0f}"]
        row += [f"{of[name]:.1%}"[:-1] for name in ("local_share", "asked_share")]
        row += [f"{of['disagreement']:.2%}"[:-1], f"{of['agreement']:.1%}"[:-1]]
        row += [f"{of['accuracy']:.1%}"[:-1] if "accuracy" in of else "-"]
        row += [f"{of['bytes_up']:,.0f}", f"{of['bytes_down']:,.0f}", f"{of['models_pushed']:.1f}"]
        row += [f"{of['ratio_to_best_baseline']:.2f}" if "ratio_to_best_baseline" in of else "-"]
        row += [f"{of['ratio_to_oracle']:.0%}" if "ratio_to_oracle" in of else "-"]
        rows.append(row + ([f"{of['millijoules'] + of['radio_millijoules']:.0f}"] if powered else []))
    return head, rows


def table(found: Found) -> Table:
    """The table for a terminal, one row a policy."""
    head, rows = cells(found)
    grid = Table(box=None, header_style="bold", pad_edge=False)
    grid.add_column(head[0], no_wrap=True)
    for column in head[1:]:
        grid.add_column(column, justify="right", vertical="bottom")
    for row in rows:
        grid.add_row(*row, style="bold green" if row[0] == CACHENET else None)
    return grid
